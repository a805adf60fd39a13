"""Optuna's part of a search: the sampler, the storage, and trials that outlive the process."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from saltseg.errors import SaltsegError
from saltseg.run import Run
from saltseg.searching.overrides import written
from saltseg.searching.space import suggest
from saltseg.searching.trial import TrialError, command, epochs, reason, training

#: The one study that a storage of ours holds.
NAME = "search"
#: A trial's process says every so many seconds that it is alive …
HEARTBEAT = 10
#: … and is given up when it hasn't for this long: other processes may keep the storage, or this machine, busy.
GRACE = 60

# Heartbeats are; they are what Optuna has for processes that are killed.
warnings.filterwarnings("ignore", message=r".*is (an )?experimental", category=ExperimentalWarning)
# What it remarks goes to the search's log file.
optuna.logging.disable_default_handler()


class SeededTPE(BaseSampler):
    """Optuna's TPE, whose draws for a trial follow from (seed, number of the trial).

    With one generator for all trials, a continuation would draw the first trials once more, and so would a second
    process.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed it."""
        seed = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]
        self.tpe = TPESampler(seed=int(seed))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE does."""
        return self.tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self.tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE does."""
        return self.tpe.sample_independent(study, trial, param_name, param_distribution)


def attempts(trial: FrozenTrial) -> list[int]:
    """The numbers of the trials that ``trial`` takes up, which were interrupted; the first one first."""
    return RetryHeartbeatStaleTrialCallback.retry_history(trial)


def interrupted(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of trials that another one took up."""
    return {number for trial in trials for number in attempts(trial)}


def best_value(trial: FrozenTrial) -> float:
    """The best epoch's, as far as it got; NaN before the first."""
    return max(trial.intermediate_values.values(), default=float("nan"))


def storage(file: Path) -> RDBStorage:
    """A SQLite file that several processes may use at once, and that notices when one of them has died."""
    return RDBStorage(
        f"sqlite:///{file.resolve()}",
        engine_kwargs={"connect_args": {"timeout": GRACE}},
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


def open_study(file: Path, definition: Mapping[str, Any], seed: int, warmup: int) -> Study:
    """The study that ``file`` holds; a new one if there is none.

    Args:
        file: SQLite's.
        definition: what must be equal for trials to be comparable, as JSON can hold it.
        seed: of the sampler.
        warmup: epochs in which no trial is pruned.

    Raises:
        SaltsegError: if the study has another definition, or the file is none of Optuna's.
    """
    if not file.exists():
        _create(file, definition)
    try:
        study = optuna.load_study(
            study_name=NAME,
            storage=storage(file),
            sampler=SeededTPE(seed),
            pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=warmup),
        )
    except (SQLAlchemyError, OptunaError, KeyError) as error:
        raise SaltsegError(f"{file} is not the storage of a search: {error}") from error
    for name, asked in definition.items():
        known = study.user_attrs.get(name)
        if known != asked:
            raise SaltsegError(
                f"{file} is of a search with another {name}, so its trials can't be compared with new ones. It has "
                f"{known}, not {asked}. Choose another hydra.run.dir, or leave it out to have one made under outputs/."
            )
    return study


def _create(file: Path, definition: Mapping[str, Any]) -> None:
    """Make it aside: of two processes that do so at once one comes first, and the other finds it whole."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    made = storage(partial)
    study = optuna.create_study(study_name=NAME, storage=made, direction="maximize")
    for name, value in definition.items():
        study.set_user_attr(name, value)
    made.remove_session()
    made.engine.dispose()
    with suppress(FileExistsError):
        file.hardlink_to(partial)
    partial.unlink()


@dataclass
class Search:
    """Trainings that share a directory, and a study of them.

    Each trains in ``trials/<number>``, a run's directory. A trial whose process was stopped or killed is taken up by a
    new one, which goes on from its last whole epoch in a directory of its own: the old training may not have noticed
    yet.

    Attributes:
        directory: of the search.
        study: of Optuna's.
        base: overrides of ``train`` that all trials share.
        space: the values that each searched key may have.
        monitor: what is maximised, over the epochs of a trial and over trials.
        config_dirs: folders of the user's own YAMLs.
        watch: called whenever there is something new.
        pause: waits for that; may raise KeyboardInterrupt.
    """

    directory: Path
    study: Study
    base: Sequence[str]
    space: Mapping[str, BaseDistribution]
    monitor: str
    config_dirs: Sequence[str]
    watch: Callable[["Search"], None]
    pause: Callable[[], None]

    def run(self, trials: int) -> None:
        """Until the study has ``trials`` that ended; those that another process runs are waited for."""
        while True:
            fail_stale_trials(self.study)
            known = self.study.get_trials(deepcopy=False)
            left = {state: sum(t.state is state for t in known) for state in (TrialState.WAITING, TrialState.RUNNING)}
            begun = len(known) - len(interrupted(known)) - left[TrialState.WAITING]
            if left[TrialState.WAITING] or begun < trials:
                self.study.optimize(
                    self.try_out, n_trials=1, catch=(TrialError,), callbacks=[lambda *_: self.watch(self)]
                )
            elif left[TrialState.RUNNING]:
                self.watch(self)
                self.pause()
            else:
                return

    def try_out(self, trial: Trial) -> float:
        """Train with the values that Optuna suggests; returns the best epoch's score.

        Raises:
            TrialError: if the training fails.
            TrialPruned: if it does worse than half of the others at the same epoch.
        """
        parameters = {key: suggest(trial, key, distribution) for key, distribution in self.space.items()}
        known = self.study.trials[trial.number]
        checkpoints = [self.run_of(number).last_checkpoint for number in reversed(attempts(known))]
        resume = [written("ckpt_path", str(file)) for file in checkpoints if file.exists()][:1]
        run = self.run_of(trial.number)
        log = run.path / "terminal.log"
        overrides = [*self.overrides(parameters), *resume, written("hydra.run.dir", str(run.path))]
        try:
            with training(command(overrides, self.config_dirs), log) as process:
                self.watch(self)
                for epoch, value in epochs(run, process, self.monitor, self.pause):
                    trial.report(value, epoch)
                    self.watch(self)
                    if trial.should_prune():
                        raise optuna.TrialPruned
        except KeyboardInterrupt:
            RetryHeartbeatStaleTrialCallback()(self.study, known)
            raise
        if process.returncode != 0:
            why = reason(run, log)
            trial.set_user_attr("error", why)
            raise TrialError(why)
        return float(run.history()[self.monitor].max())

    def overrides(self, parameters: Mapping[str, Any]) -> list[str]:
        """Of ``train``, for these values of the space."""
        return [*self.base, *(written(key, value) for key, value in parameters.items())]

    def run_of(self, number: int) -> Run:
        """Where a trial trains."""
        return Run(self.directory / "trials" / str(number))

    @property
    def experiment_file(self) -> Path:
        """The best trial as an experiment, below a folder for ``--config-dir``."""
        return self.directory / "experiment" / "best.yaml"

    def best(self) -> FrozenTrial | None:
        """Of the trials that finished."""
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(finished, key=lambda trial: trial.value or 0.0, default=None)

    def table(self) -> pd.DataFrame:
        """A row a trial, in the order of their numbers."""
        trials = self.study.get_trials(deepcopy=False)
        taken_up = interrupted(trials)
        rows = [
            {
                "number": trial.number,
                "state": "interrupted" if trial.number in taken_up else STATES[trial.state],
                self.monitor: best_value(trial),
                "epochs": len(trial.intermediate_values),
                **{key: trial.params.get(key) for key in self.space},
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                "directory": str(self.run_of(trial.number).path.relative_to(self.directory)),
                "error": trial.user_attrs.get("error"),
            }
            for trial in trials
        ]
        columns = ["number", "state", self.monitor, "epochs", *self.space, "seconds", "directory", "error"]
        return pd.DataFrame(rows, columns=columns)


#: How a trial's state is called in tables.
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
