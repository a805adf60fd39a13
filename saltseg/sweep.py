"""Sweeps: which job trains, which only scores, what became of them, and the numbers of all in one table.

Jobs whose configurations differ only in what changes no weight have one training between them. One job of each training
runs in the first wave; the others, in the second, take its checkpoints and score them. ``sweep.json`` in the sweep's
directory is the plan; a job reads there whose training it takes, whichever machine it runs on.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from saltseg.command import MENDABLE, explain, refuse_strays
from saltseg.config import resolved, slug
from saltseg.errors import SaltsegError
from saltseg.files import write_whole
from saltseg.run import PACKAGES, Run

#: What changes no weight: how a trained network is scored, and what is shown or kept on the way.
NOT_TRAINING = ("threshold", "tta", "weights", "logger", "trust", "choices", "hydra")
NOT_TRAINING_EITHER = {
    "data": ("num_workers",),
    "callbacks": ("progress", "pictures"),
    "trainer": ("enable_progress_bar", "log_every_n_steps"),
}


def training_key(config: DictConfig, content: Callable[[Path], str]) -> str:
    """What determines the weights of a job, in 16 hexadecimal digits.

    Equal for two configurations that differ in :data:`NOT_TRAINING` only; the versions of the libraries count as well.

    Args:
        config: a job's, composed.
        content: of a file or folder, see :func:`digest`: a value that names one counts by what is in there.
    """
    plain = resolved(OmegaConf.masked_copy(config, [str(k) for k in config if k not in NOT_TRAINING]))
    if plain["init"] is not None:  # of that run only the weights count
        plain["init"] = content(Run(Path(plain["init"])).scored_checkpoint)
    for group, keys in NOT_TRAINING_EITHER.items():
        plain[group] = {k: v for k, v in plain[group].items() if k not in keys}
    versions = {p: metadata.version(p) for p in PACKAGES}
    text = json.dumps([_with_content(plain, content), versions], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _with_content(value: Any, content: Callable[[Path], str]) -> Any:
    if isinstance(value, dict):
        return {k: _with_content(v, content) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_content(v, content) for v in value]
    if isinstance(value, str) and 0 < len(value) < 1000 and Path(value).exists():
        return content(Path(value))
    return value


def digest(path: Path) -> str:
    """A digest of a file, or of all files below a folder, hidden ones apart."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = str(file.relative_to(path))
        if not file.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        total.update(name.encode())
        if zipfile.is_zipfile(file):  # which keeps checksums of what it holds
            with zipfile.ZipFile(file) as archive:
                total.update(repr([(i.filename, i.CRC) for i in archive.infolist()]).encode())
        else:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        directory: its name below the sweep's.
        overrides: what it is made of.
        training: see :func:`training_key`; "" where the configuration can't work.
        trained_by: the directory of the job that trains its weights.
    """

    directory: str
    overrides: tuple[str, ...]
    training: str
    trained_by: str

    @property
    def trains(self) -> bool:
        return self.trained_by == self.directory


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep, and where they write."""

    directory: Path
    jobs: tuple[Job, ...]

    @classmethod
    def plan(
        cls,
        directory: Path,
        jobs: Sequence[Sequence[str]],
        compose: Callable[[list[str]], DictConfig],
        check: Callable[[DictConfig], None],
    ) -> "Sweep":
        """Plan ``jobs``, beside those of a sweep that is there already, and write it down.

        A job that can't work is recorded as failed; the others are not kept from running.

        Args:
            directory: of the sweep.
            jobs: the overrides of each.
            compose: from overrides to a configuration.
            check: raises SaltsegError for one that can't work.

        Raises:
            SaltsegError: if a job was planned here before with other data or versions.
        """
        content = cache(digest)
        before = cls.read(directory)
        planned = {job.overrides: job for job in before.jobs} if before else {}
        varying = [k for k in range(len(jobs[0])) if len({job[k] for job in jobs}) > 1] or list(range(len(jobs[0])))
        for overrides in map(tuple, jobs):
            old = planned.get(overrides)
            name = old.directory if old else f"{len(planned)}_{slug(','.join(overrides[k] for k in varying))}"
            try:
                training = _key_of(compose(list(overrides)), check, content)
            except MENDABLE as error:
                if old and old.training:
                    raise
                training = ""
                record_failure(directory / name, explain(error))
            if old and old.training not in ("", training):
                raise SaltsegError(
                    f"hydra.sweep.dir: {directory} holds a sweep whose job {name} was begun with other data, versions "
                    "or YAMLs. Choose another directory."
                )
            twin = next((j.directory for j in planned.values() if training and j.training == training), name)
            planned[overrides] = Job(name, overrides, training, old.trained_by if old else twin)
        sweep = cls(directory, tuple(planned.values()))
        write_whole(directory / "sweep.json", json.dumps([asdict(job) for job in sweep.jobs], indent=1) + "\n")
        return sweep

    @classmethod
    def read(cls, directory: Path) -> "Sweep | None":
        """The sweep that was planned in ``directory``, if one was.

        Raises:
            SaltsegError: if the plan can't be read.
        """
        file = directory / "sweep.json"
        if not file.is_file():
            return None
        try:
            return cls(
                directory,
                tuple(Job(**{**job, "overrides": tuple(job["overrides"])}) for job in json.loads(file.read_text())),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise SaltsegError(f"{file} can't be read as the plan of a sweep: {error}") from error

    def state(self, job: Job) -> "State":
        """How far a job is, from its files."""
        return State.of(Run(self.directory / job.directory))

    def summary(self) -> pd.DataFrame:
        """The content of ``summary.csv``: a row per job, with what was swept, how it ended, and its scores."""
        rows = []
        for job in self.jobs:
            state = self.state(job)
            swept = dict(override.lstrip("+~").split("=", 1) for override in job.overrides if "=" in override)
            head = {"job": job.directory, **swept, "status": state.status, "trained_by": job.trained_by}
            scores = {k: v for k, v in state.metrics.items() if k not in ("status", "error", "trained_by")}
            rows.append({**head, "epochs": state.epochs, "error": state.metrics.get("error"), **scores})
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class State:
    """How far a job is.

    Attributes:
        status: waiting, running, finished, failed or interrupted.
        last: the last row of its history.
        metrics: the content of its ``metrics.json``.
    """

    status: str
    last: dict[str, Any]
    metrics: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> "State":
        """What the files of a run say."""
        metrics = run.metrics() if run.metrics_file.is_file() else {}
        history = run.history() if run.history_file.is_file() else pd.DataFrame()
        last = {str(k): v for k, v in history.iloc[-1].items()} if len(history) else {}
        status = metrics.get("status", "running" if run.config_file.is_file() else "waiting")
        return cls(status, last, metrics)

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "failed", "interrupted")

    @property
    def epochs(self) -> int:
        return int(self.last["epoch"]) + 1 if self.last else 0


def planned(path: Path) -> Job | None:
    """The job of a sweep that writes to ``path``, if there is one."""
    sweep = Sweep.read(path.parent)
    return next((job for job in sweep.jobs if job.directory == path.name), None) if sweep else None


def record_failure(directory: Path, reason: str) -> None:
    """Write down that a job failed which could not do so itself."""
    directory.mkdir(parents=True, exist_ok=True)
    Run(directory).write_metrics({"status": "failed", "error": reason})


def _key_of(config: DictConfig, check: Callable[[DictConfig], None], content: Callable[[Path], str]) -> str:
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # for what refers to Hydra's own part
    try:
        # A logger's names may speak of a directory that there is not yet.
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("hydra", "logger")])
        refuse_strays(own, "train")
        check(own)
        return training_key(own, content)
    finally:
        HydraConfig.instance().cfg = before


def named_runs(named: Any) -> list[Run]:
    """The finished runs that ``run=`` names: a directory or several; a sweep's stands for all its trainings.

    Raises:
        SaltsegError: if there is none, or one did not finish.
    """
    runs: list[Run] = []
    for path in map(Path, named if isinstance(named, ListConfig) else [named]):
        sweep = Sweep.read(path)
        directories = (
            [path] if sweep is None else [path / j.directory for j in sweep.jobs if j.trains or not j.training]
        )
        runs += map(Run.finished, directories)
    if not runs:
        raise SaltsegError("run: there is none. Name a directory that training made, or several: run=[DIR,DIR].")
    return runs
