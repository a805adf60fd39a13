"""From runs to arms: what differs only in seed and fold is one recipe, tried several times, on the same images."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saltseg.comparison.scored import Scored
from saltseg.errors import SaltsegError
from saltseg.run import Run
from saltseg.statistics import SEEDS, Floats, Sample

#: Settings that make no other recipe: repetitions, places, what watches; and the choices, whose content stands beside.
NO_RECIPE = ("seed", "data.fold", "ckpt_path", "logger", "choices", "trust", "data.root", "data.num_workers")
#: The groups of a configuration, in the order in which they name an arm.
GROUPS = ("experiment", "data", "model", "loss", "augmentation", "optimizer", "scheduler", "callbacks", "trainer")
#: Scores that images have one by one, so that their mean has an interval.
METRICS = ("iou", "dice", "map", "iou_salt", "empty_correct")
#: Which images to compare on.
SPLITS = ("test", "val", "heldout")
NAME_RUNS = "Name directories of runs, or of a sweep: runs=[DIR,DIR]."


@dataclass(frozen=True)
class Arm:
    """One recipe.

    Attributes:
        name: what sets it apart from the others.
        repeats: a list of runs per seed: one, or one for each fold.
        tables: per seed, ``predictions.csv`` of its runs joined; the same images in the same order in all arms.
        splits: the parts that the images are from.
    """

    name: str
    repeats: Sequence[Sequence[Scored]]
    tables: Sequence[pd.DataFrame]
    splits: tuple[str, ...]

    @property
    def runs(self) -> list[Scored]:
        return [run for repeat in self.repeats for run in repeat]

    @property
    def trainings(self) -> tuple[Hashable, ...]:
        """Per seed, where the weights come from."""
        return tuple(tuple(run.training for run in repeat) for repeat in self.repeats)

    @property
    def is_recipe(self) -> bool:
        """Whether there are seeds enough to speak of more than these very checkpoints."""
        return len(self.repeats) >= SEEDS

    @property
    def has_arrays(self) -> bool:
        return all(run.arrays is not None for run in self.runs)

    @property
    def images(self) -> pd.DataFrame:
        """What is known of the images themselves."""
        return self.tables[0][["split", "group", "salt", "depth", "suspect"]]

    @property
    def predicted(self) -> Floats:
        """N shares of predicted salt, averaged over the seeds."""
        return np.asarray(np.mean([table["predicted"] for table in self.tables], axis=0))

    def sample(self, metric: str, at: str = "") -> Sample:
        """S×N scores of :data:`METRICS`; ``at=scored.BEST``: at the threshold that each run's validation found best."""
        return Sample(np.stack([_scores(table, metric, at) for table in self.tables]), self.trainings)

    def of(self, name: str) -> list[Scored]:
        """The runs, one per seed, that predicted this image held out."""
        return [next(run for run in repeat if run.holds_out(name, self.splits)) for repeat in self.repeats]

    def validation_curve(self) -> tuple[list[str], Floats]:
        """The groups of the N validation images, and their N×19 IoU at each threshold, averaged over the seeds."""
        validated = [pd.concat([run.table[run.table["split"] == "val"] for run in repeat]) for repeat in self.repeats]
        ids = validated[0].index
        curves = []
        for repeat, table in zip(self.repeats, validated, strict=True):
            iou = np.concatenate([run.counts(run.table.index[run.table["split"] == "val"]).iou for run in repeat])
            curves.append(iou[table.index.get_indexer(ids)])
        return groups(validated[0]), np.asarray(np.mean(curves, axis=0))


def groups(table: pd.DataFrame) -> list[str]:
    """What is drawn together: images of one group, else each image by itself."""
    return [f"group {group}" if group else f"image {name}" for name, group in table["group"].items()]


def _scores(table: pd.DataFrame, metric: str, at: str) -> Floats:
    salt = table["salt"].to_numpy() > 0
    if metric == "iou_salt":
        return np.where(salt, table[f"{at}iou"], np.nan)
    if metric == "empty_correct":
        return np.where(salt, np.nan, table[f"{at}predicted"] == 0)
    return table[f"{at}{'ap' if metric == 'map' else metric}"].to_numpy(float)


def find(paths: Iterable[str]) -> tuple[list[Scored], list[str]]:
    """The runs that are named, or that are jobs of a sweep that is named; and which of its jobs were left out, and why.

    Raises:
        SaltsegError: if a run named by itself isn't there or didn't finish, or a file of any was changed.
    """
    runs, left_out = [], []
    for path in map(Path, paths):
        if not path.is_dir():
            raise SaltsegError(f"runs: {path} does not exist. {NAME_RUNS}")
        jobs = sorted((file.parent for file in path.glob("*/config.yaml")), key=_by_number)
        if (path / "config.yaml").is_file() or not jobs:
            runs.append(Scored.read(Run.finished(path)))
            continue
        done = []
        for job in jobs:
            why = _unfinished(Run(job))
            if why:
                left_out.append(f"{job.name} is left out: {why}.")
            else:
                done.append(Scored.read(Run(job)))
        if not done:
            raise SaltsegError(f"runs: no job of the sweep {path} has finished. {' '.join(left_out)}")
        runs += done
    if not runs:
        raise SaltsegError(f"runs: there is none. {NAME_RUNS}")
    return runs, left_out


def _by_number(job: Path) -> tuple[int, str]:
    """Hydra's numbers of jobs have no leading zeros."""
    return len(job.name.partition("_")[0]), job.name


def _unfinished(run: Run) -> str:
    """Why a job has no result, or nothing."""
    if not run.metrics_file.is_file():
        return "it did not finish"
    metrics = run.metrics()
    status = metrics.get("status")
    return "" if status == "finished" else f"it {status} ({metrics.get('error', 'no reason given')})"


def group(runs: Sequence[Scored], split: str | None = None) -> list[Arm]:
    """Runs by recipe, in the order in which they were named.

    Args:
        runs: of one dataset.
        split: which images: ``test``, ``val`` or ``heldout`` (both); None: those out of the folds where the runs
            cross-validate, else ``test``.

    Raises:
        SaltsegError: if the runs are of different data, or were not scored on the same images.
    """
    same_dataset(runs)
    recipes: dict[tuple[Any, ...], list[Scored]] = {}
    for run in runs:
        recipes.setdefault(tuple(sorted((k, repr(v)) for k, v in recipe(run).items())), []).append(run)
    members, names = [], names_of([m[0] for m in recipes.values()])
    labels = []
    for name, found in zip(names, recipes.values(), strict=True):
        if len({(r.seed, r.fold) for r in found}) == len(found):
            members.append(found)
            labels.append(name)
        else:  # the same seed and fold twice: a copy, or a repetition that is to be held against the first
            members += [[run] for run in found]
            labels += _unique([run.run.path.resolve().name for run in found])
    arms = [_arm(name, runs, split) for name, runs in zip(_unique(labels), members, strict=True)]
    return [arms[0], *(aligned(arm, arms[0]) for arm in arms[1:])]


def recipe(run: Scored) -> dict[str, Any]:
    """The settings that must be equal in the runs of one arm."""
    return {k: v for k, v in run.settings.items() if not any(k == n or k.startswith(f"{n}.") for n in NO_RECIPE)}


def names_of(runs: Sequence[Scored]) -> list[str]:
    """The shortest names by which these recipes are told apart: what was chosen, then single settings."""
    chosen = [f"choices.{g}" for g in GROUPS if len({r.settings.get(f"choices.{g}") for r in runs}) > 1]
    keys = sorted(different(runs), key=lambda k: (any(k not in r.settings for r in runs), k.count("."), k))
    if chosen[:1] == ["choices.experiment"]:  # where each has one, its name says what was chosen
        if all(r.settings.get(chosen[0]) for r in runs):
            chosen, keys = chosen[:1], chosen[1:] + keys
        else:
            chosen = chosen[1:]
    names = [tuple(r.settings.get(key) for key in chosen) for r in runs]
    for key in keys:
        longer = [(*name, run.settings.get(key)) for name, run in zip(names, runs, strict=True)]
        if len(set(longer)) > len(set(names)):
            chosen, names = [*chosen, key], longer
    return [
        ", ".join(_label(key, value) for key, value in zip(chosen, name, strict=True)) or str(run.run.path.name)
        for run, name in zip(runs, names, strict=True)
    ]


def different(runs: Sequence[Scored]) -> list[str]:
    """The settings in which recipes differ."""
    recipes = [recipe(run) for run in runs]
    keys = dict.fromkeys(key for r in recipes for key in r)
    return [key for key in keys if len({repr(r.get(key)) for r in recipes}) > 1]


def same_dataset(runs: Sequence[Scored]) -> None:
    """Refuse runs of different data.

    Raises:
        SaltsegError: naming two of them.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.metrics.get("dataset") != first.metrics.get("dataset"):
            raise SaltsegError(
                f"runs: {first.run.path} is of the dataset {first.metrics.get('dataset')}, {run.run.path} of "
                f"{run.metrics.get('dataset')}. Scores on different images can't be compared."
            )


def aligned(arm: Arm, first: Arm) -> Arm:
    """The same arm with its images in the order of the first one.

    Raises:
        SaltsegError: if they have different images, or different labels of them.
    """
    _compare_images(first.tables[0], arm.tables[0], str(first.runs[0].run.path), str(arm.runs[0].run.path))
    return replace(arm, tables=[table.loc[first.tables[0].index] for table in arm.tables])


def _compare_images(ours: pd.DataFrame, theirs: pd.DataFrame, our_name: str, their_name: str) -> None:
    lacking, more = ours.index.difference(theirs.index), theirs.index.difference(ours.index)
    if len(lacking) or len(more):
        raise SaltsegError(
            f"runs: {our_name} and {their_name} were not scored on the same images: of {len(ours)} and {len(theirs)} "
            f"they share {len(ours) - len(lacking)}, {next(iter(lacking.append(more)))} is not among them. Compare "
            "runs of one division (data.split), and of the same folds."
        )
    differ = (ours["salt"] - theirs["salt"].loc[ours.index]).abs() > 1e-9
    if differ.any():
        raise SaltsegError(
            f"runs: {our_name} and {their_name} have different labels of {int(differ.sum())} images, the first is "
            f"{ours.index[differ.to_numpy()][0]}: they are of different data."
        )


def _arm(name: str, runs: Sequence[Scored], split: str | None) -> Arm:
    """The runs of one recipe by seed, the folds of a seed joined."""
    folded = [run.fold is not None for run in runs]
    if any(folded) and split is not None:
        raise SaltsegError("split: runs of a cross-validation are compared on the images out of their folds; omit it.")
    splits = ("val",) if any(folded) else ("val", "test") if split == "heldout" else (split or "test",)
    seeds: dict[int, list[Scored]] = {}
    for run in sorted(runs, key=lambda r: (r.seed, -1 if r.fold is None else r.fold)):
        seeds.setdefault(run.seed, []).append(run)
    repeats = list(seeds.values())
    tables: list[pd.DataFrame] = []
    for repeat in repeats:
        table = pd.concat([run.table[run.table["split"].isin(splits)] for run in repeat])
        if table.index.has_duplicates:
            raise SaltsegError(
                f"runs: {table.index[table.index.duplicated()][0]} was held out by two folds of seed {repeat[0].seed}, "
                f"so {repeat[0].run.path} and {repeat[-1].run.path} are no folds of one division."
            )
        if table.empty:
            raise SaltsegError(f"runs: {repeat[0].run.path} has no scores of {' and '.join(splits)} images.")
        if tables:
            _compare_images(tables[0], table, str(repeats[0][0].run.path), str(repeat[0].run.path))
            table = table.loc[tables[0].index]
        tables.append(table)
    return Arm(name, repeats, tables, splits)


def _label(key: str, value: Any) -> str:
    group, _, name = key.rpartition(".")
    if group == "choices":
        return str(value) if value is not None else f"no {name}"
    return f"{name}={value}"


def _unique(names: Sequence[str]) -> list[str]:
    """Names that occur again get a number."""
    return [f"{n} ({names[:k].count(n) + 1})" if n in names[:k] else n for k, n in enumerate(names)]
