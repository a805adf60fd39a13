"""``python -m saltseg.search``: the best hyperparameters for an experiment, found by training it many times."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich import box
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from saltseg.callbacks import MONITORS
from saltseg.command import app, command_line
from saltseg.components import check
from saltseg.config import SearchConfig, TrainConfig, choices, resolved
from saltseg.errors import SaltsegError, check_choice
from saltseg.files import write_whole
from saltseg.report import console
from saltseg.searching.overrides import composed, experiment, written
from saltseg.searching.trial import Interrupt

if TYPE_CHECKING:
    from saltseg.searching.study import Search

#: Keys of the search itself; all others are those of its trials.
OWN = SearchConfig.__dataclass_fields__.keys() - TrainConfig.__dataclass_fields__.keys()


def search(config: DictConfig) -> float:
    """Train with many values of ``space``; returns the best trial's score."""
    try:
        from saltseg.searching.space import domain, examples
        from saltseg.searching.study import GRACE, Search, open_study
    except ModuleNotFoundError as error:
        raise SaltsegError("saltseg.search needs Optuna: pip install 'saltseg[search]'.") from error

    check(config, config.trust)
    check_choice("monitor", config.monitor, MONITORS)
    directory, base = Path(HydraConfig.get().runtime.output_dir), shared_overrides()
    space = {key: domain(key, given) for key, given in resolved(config)["space"].items()}
    check_space(base, {key: examples(distribution) for key, distribution in space.items()})

    definition = {"base": sorted(base), "space": {key: repr(distribution) for key, distribution in space.items()}}
    warmup = max(config.trainer.max_epochs or 0, 0) // 3
    study = open_study(directory / "study.db", definition, config.seed, warmup)
    with Board() as board, Interrupt() as interrupt:
        trainings = Search(
            directory, study, base, space, config.monitor, config_dirs(), watch=board.show, pause=interrupt.pause
        )
        console.print(f"search: {directory}\nContinue or join it by: [bold]{escape(continuation(directory))}[/bold]")
        if n := int((trainings.table()["state"] == "running").sum()):
            console.print(f"Running already: {n}. Those that give no sign of life for {GRACE} s are taken up.")
        try:
            trainings.run(config.trials)
        except KeyboardInterrupt as stop:
            board.show(trainings)
            raise KeyboardInterrupt(f"Stopped. Continue by: {continuation(directory)}") from stop
    return conclude(trainings)


def shared_overrides() -> list[str]:
    """What the command line says of every trial; also the data, which is otherwise what is found at the time.

    Raises:
        SaltsegError: if that can't be shared.
    """
    given = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    keys = {override.key_or_group for override in given}
    if "ckpt_path" in keys:
        raise SaltsegError("ckpt_path: every trial of a search trains from the start. Leave it out.")
    shared = [str(o.input_line) for o in given if o.key_or_group.split(".")[0] not in OWN]
    return shared if "data" in keys else [*shared, written("data", choices()["data"])]


def check_space(base: Sequence[str], examples: Mapping[str, Sequence[Any]]) -> None:
    """Compose what trials may be, before any of them has cost time.

    Raises:
        SaltsegError: if the space is empty, or has a key or a choice that there is not.
    """
    if not examples:
        raise SaltsegError("space: there is nothing to search. See conf/space/recipe.yaml.")
    first = {key: values[0] for key, values in examples.items()}
    for key, values in examples.items():
        if key.split(".")[0] in ("monitor", "seed", "hydra", "ckpt_path"):
            raise SaltsegError(f"space: {key} can't be searched: it doesn't make a training better.")
        for value in values:
            composed([*base, *(written(k, v) for k, v in {**first, key: value}.items())])


def config_dirs() -> list[str]:
    """Folders of the user's own YAMLs."""
    return [s.path for s in HydraConfig.get().runtime.config_sources if s.provider == "command-line"]


def continuation(directory: Path) -> str:
    """The command that goes on with a search."""
    own = [f"--config-dir={folder}" for folder in config_dirs()]
    return " ".join([command_line(), *map(shlex.quote, [*own, f"hydra.run.dir={directory}"])])


class Board:
    """What a search shows in the terminal, and leaves in ``trials.csv`` and ``experiment/best.yaml``.

    Every trial that has ended gets a line; below them stand those that are running.
    """

    def __init__(self) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.told: set[int] = set()
        self.best: int | None = None

    def __enter__(self) -> "Board":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def show(self, search: "Search") -> None:
        """Bring it up to date."""
        trials = search.table()
        ended = trials[~trials["state"].isin(("running", "waiting"))]
        new = ended[~ended["number"].isin(self.told)]
        for trial in new.to_dict("records"):
            console.print(line(trial, search), highlight=False, markup=False)
        if len(new):
            write_whole(search.directory / "trials.csv", trials.to_csv(index=False))
            self.keep_best(search)
        self.told |= set(new["number"])
        self.live.update(table(trials[trials["state"] == "running"], search), refresh=True)

    def keep_best(self, search: "Search") -> None:
        """Write the best trial as an experiment, when it is another one."""
        best = search.best()
        if best is None or best.number == self.best:
            return
        about = f"Trial {best.number} of {search.directory}: {search.monitor} {best.value:.4f} in its best epoch."
        search.experiment_file.parent.mkdir(exist_ok=True)
        write_whole(search.experiment_file, experiment(search.overrides(best.params), about))
        self.best = best.number


def line(trial: Mapping[Any, Any], search: "Search") -> str:
    """What became of a trial."""
    parameters = ", ".join(f"{key} {shown(trial[key])}" for key in search.space)
    outcome = f"{trial['state']} after {trial['epochs']} epochs, {search.monitor} {shown(trial[search.monitor])}"
    return f"trial {trial['number']}: {trial['error'] or outcome}; {parameters}"


def table(trials: pd.DataFrame, search: "Search") -> Table:
    """A row a trial."""
    drawn = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "epochs", search.monitor, *search.space):
        drawn.add_column(name.replace(".", ".\n"), justify="right")
    for trial in trials.to_dict("records"):
        drawn.add_row(*(shown(trial[name]) for name in ("number", "epochs", search.monitor, *search.space)))
    return drawn


def shown(value: Any) -> str:
    """A number or name in a table."""
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def conclude(search: "Search", rows: int = 10) -> float:
    """Say what was found; returns the best score.

    Raises:
        SaltsegError: if no trial finished.
    """
    trials, best = search.table(), search.best()
    if best is None or best.value is None:
        raise SaltsegError(f"None of the {len(trials)} trials finished. The last one: {trials['error'].iloc[-1]}")
    finished = trials[trials["state"] == "complete"].sort_values(search.monitor, ascending=False)
    console.print(table(finished.head(rows), search))
    console.print(f"trials: {search.directory / 'trials.csv'}, {', '.join(f'{n} {s}' for s, n in counts(trials))}")
    own = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in config_dirs())}]"] if config_dirs() else []
    again = ["python", "-m", "saltseg.train", "--config-dir", str(search.directory), *own, "experiment=best"]
    console.print(f"Train with the best values by: [bold]{escape(shlex.join(again))}[/bold]")
    return best.value


def counts(trials: pd.DataFrame) -> list[tuple[str, int]]:
    """How many trials ended in what way."""
    return [(str(state), int(count)) for state, count in trials["state"].value_counts().items()]


main = app("search")(search)

if __name__ == "__main__":
    main()
