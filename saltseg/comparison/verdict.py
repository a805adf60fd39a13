"""Which arm is better, and by how much: means, paired differences and the sentences that say it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saltseg.calibration import expected_calibration_error
from saltseg.comparison.arms import METRICS, Arm, groups
from saltseg.comparison.delineation import Delineation, ThresholdCurve
from saltseg.comparison.scored import BEST
from saltseg.errors import SaltsegError, near_miss
from saltseg.statistics import Difference, Estimate, Images, Sample, holm, interval, judge

TITLES = {
    "iou": "IoU",
    "dice": "Dice",
    "map": "mAP",
    "iou_salt": "IoU of images with salt",
    "empty_correct": "share of empty images left empty",
}
#: The chance of one false difference among all pairs.
ALPHA = 0.05
#: Upper ends of the classes of salt share; 0 has a class of its own.
COVERAGE = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Pair:
    """The first arm less the second.

    Attributes:
        p: corrected for all pairs.
        images: how many have the score.
    """

    first: Arm
    second: Arm
    difference: Difference
    p: float
    images: int
    metric: str

    @property
    def shown(self) -> bool:
        """Whether there is a difference: the test says so, and so does the interval, which knows the seeds, too."""
        d = self.difference
        return self.p < ALPHA and (d.low > 0 or d.high < 0)

    @property
    def finding(self) -> str:
        """What is shown, or not."""
        about = self._about()
        if not self.shown:
            d = self.difference
            why = f" ({p_text(self.p)})" if d.low > 0 or d.high < 0 else ""  # too few images, or too many pairs
            return f"no difference shown{about and f' between {about}'}{why}"
        better = self.first if self.difference.value > 0 else self.second
        return f"{about and f'of {about}, '}{better.name} is better ({p_text(self.p)})"

    @property
    def sentence(self) -> str:
        d = self.difference
        return (
            f"{self.first.name} − {self.second.name} = {signed(d.value)} {TITLES[self.metric]} "
            f"[{signed(d.low)}, {signed(d.high)}], {self.images} images: {self.finding}."
        )

    def _about(self) -> str:
        """What the finding speaks of; nothing where it is the recipes themselves."""
        if self.first.trainings == self.second.trainings:
            return "these two settings of the same weights"
        if self.first.is_recipe and self.second.is_recipe:
            return ""
        alone = len(self.first.runs) == len(self.second.runs) == 1
        return "these two checkpoints" if alone else "the checkpoints of these two"


@dataclass(frozen=True)
class Verdict:
    """What the scores say.

    Attributes:
        metric: of what.
        arms: the recipes.
        means: theirs, at each run's threshold.
        best: theirs at each run's own best threshold on validation; None where a run has no arrays.
        pairs: all, or those with the baseline; the surest first.
    """

    metric: str
    arms: Sequence[Arm]
    means: Sequence[Estimate]
    best: Sequence[Estimate] | None
    pairs: Sequence[Pair]

    @property
    def images(self) -> pd.DataFrame:
        """What is known of the N images."""
        return self.arms[0].images

    def scores(self) -> pd.DataFrame:
        """N rows, a column per arm: the metric, averaged over the seeds."""
        columns = {arm.name: arm.sample(self.metric).images for arm in self.arms}
        return pd.DataFrame(columns, index=self.images.index)

    def by(self, classes: "pd.Series[Any]") -> pd.DataFrame:
        """A row per class of images (N labels, ordered) and arm: ``class, arm, images, mean, low, high``."""
        scores = self.scores()
        names = list(classes.cat.categories)
        masked = np.stack([np.where((classes == n).to_numpy()[:, None], scores, np.nan) for n in names], axis=1)
        flat = masked.reshape(len(scores), -1)
        estimates = interval(flat, Images(groups(self.images)).means(flat))
        rows = [(name, arm.name) for name in names for arm in self.arms]
        counts = (~np.isnan(flat)).sum(0)
        return pd.DataFrame(
            [
                {"class": name, "arm": arm, "images": int(n), "mean": e.value, "low": e.low, "high": e.high}
                for (name, arm), n, e in zip(rows, counts, estimates, strict=True)
                if n
            ]
        )


def reach_verdict(arms: Sequence[Arm], metric: str, baseline: str | None = None) -> Verdict:
    """Judge all pairs, or each arm against the baseline.

    Raises:
        SaltsegError: if there is no such baseline.
    """
    samples = [arm.sample(metric) for arm in arms]
    if not (~np.isnan(samples[0].images)).any():
        raise SaltsegError(f"metric={metric}: none of the {len(samples[0].images)} images has this score.")
    images = Images(groups(arms[0].images))
    pairs = _pairs(samples, None if baseline is None else find_arm(arms, baseline))
    means, differences = judge(samples, pairs, images)
    count = int((~np.isnan(samples[0].images)).sum())
    found = [
        Pair(arms[i], arms[j], difference, p, count, metric)
        for (i, j), difference, p in zip(pairs, differences, holm([d.p for d in differences]), strict=True)
    ]
    found.sort(key=lambda pair: (not pair.shown, pair.p, -abs(pair.difference.value)))
    best = None
    if all(arm.has_arrays for arm in arms):
        best, _ = judge([arm.sample(metric, BEST) for arm in arms], [], images)
    return Verdict(metric, arms, means, best, found)


def find_arm(arms: Sequence[Arm], baseline: str) -> int:
    """The arm of this name, or of a run in this directory.

    Raises:
        SaltsegError: if there is none.
    """
    for k, arm in enumerate(arms):
        if baseline == arm.name or Path(baseline).resolve() in {run.run.path.resolve() for run in arm.runs}:
            return k
    names = [arm.name for arm in arms]
    raise SaltsegError(
        f"baseline={baseline}: expected the name of an arm or the directory of one of its runs."
        f"{near_miss(baseline, names)}"
    )


def _pairs(samples: Sequence[Sample], baseline: int | None) -> list[tuple[int, int]]:
    """(i, j), to read as i less j: each less the baseline, or the better less the worse."""
    if baseline is not None:
        return [(k, baseline) for k in range(len(samples)) if k != baseline]
    means = [np.nanmean(s.images) for s in samples]
    return [(i, j) if means[i] > means[j] else (j, i) for i, j in combinations(range(len(samples)), 2)]


def summary(
    verdict: Verdict,
    delineations: Mapping[str, Delineation] | None,
    curves: Mapping[str, ThresholdCurve] | None,
) -> pd.DataFrame:
    """The content of ``summary.csv``: a row per arm."""
    rows = []
    for k, arm in enumerate(verdict.arms):
        mean = verdict.means[k]
        row: dict[str, Any] = {
            "arm": arm.name,
            "runs": len(arm.runs),
            "seeds": len(arm.repeats),
            "folds": len(arm.repeats[0]),
            "trainings": len({run.training for run in arm.runs}),
            "images": len(arm.images),
            "threshold": numbers(run.threshold for run in arm.runs),
            "metric": verdict.metric,
            "mean": mean.value,
            "low": mean.low,
            "high": mean.high,
            "threshold_best": numbers(run.metrics["threshold_best"] for run in arm.runs),
            "mean_at_best": verdict.best[k].value if verdict.best else math.nan,
        }
        for metric in METRICS:
            row[metric] = _mean(arm.sample(metric).images)
        trusted = ~arm.images["suspect"].to_numpy()
        row["trusted"] = _mean(arm.sample(verdict.metric).images[trusted])
        if curves:
            row |= {"best_low": curves[arm.name].best_low, "best_high": curves[arm.name].best_high}
        if delineations:
            row |= surfaces(delineations[arm.name])
        rows.append(row)
    return pd.DataFrame(rows)


def surfaces(found: Delineation) -> dict[str, float]:
    """What an interpreter asks, and how far probabilities can be believed."""
    kept = found.hausdorff[~np.isnan(found.hausdorff)]
    return {
        "top_median": _quantile(found.top, 0.5),
        "top_p90": _quantile(found.top, 0.9),
        "base_median": _quantile(found.base, 0.5),
        "base_p90": _quantile(found.base, 0.9),
        "hd95_median": _quantile(kept, 0.5),
        "hd95_p90": _quantile(kept, 0.9),
        "no_boundary": float(np.isnan(found.hausdorff).mean()) if len(found.hausdorff) else math.nan,
        "traces_missed": found.missed,
        "ece": expected_calibration_error(found.everywhere),
        "ece_band": expected_calibration_error(found.band),
    }


def differences(verdict: Verdict) -> pd.DataFrame:
    """The content of ``differences.csv``: a row per pair."""
    columns = ["first", "second", "metric", "images", "difference", "low", "high", "p", "p_holm", "shown", "sentence"]
    rows = []
    for pair in verdict.pairs:
        d = pair.difference
        names = (pair.first.name, pair.second.name, verdict.metric, pair.images)
        rows.append((*names, d.value, d.low, d.high, d.p, pair.p, pair.shown, pair.sentence))
    return pd.DataFrame(rows, columns=columns)


def coverage_classes(images: pd.DataFrame) -> "pd.Series[Any]":
    """No salt, and shares of salt up to each of :data:`COVERAGE`."""
    names = ["none", *(f"to {upper:.0%}" for upper in COVERAGE)]
    return pd.cut(images["salt"], [-1, 0, *COVERAGE], labels=names)


def depth_classes(images: pd.DataFrame) -> "pd.Series[Any] | None":
    """Quarters of the images by depth; None where depths are unknown or all alike."""
    if images["depth"].nunique() < 4:
        return None
    edges: list[float] = np.unique(images["depth"].quantile([0, 0.25, 0.5, 0.75, 1])).tolist()
    names = [f"{low:.0f} to {high:.0f}" for low, high in pairwise(edges)]
    return pd.cut(images["depth"], edges, labels=names, include_lowest=True)


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p-value as one writes it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def numbers(values: Any) -> str:
    """Different numbers, in order."""
    return ", ".join(f"{v:g}" for v in sorted(set(values)))


def _mean(values: Any) -> float:
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else math.nan


def _quantile(values: Any, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else math.nan
