"""How each arm delineates salt, pixel by pixel: surfaces, calibration, and how far its best threshold can be known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltseg.calibration import Counts, histogram
from saltseg.comparison.arms import Arm
from saltseg.comparison.surfaces import Truth, hausdorff95, picks
from saltseg.data.images import IGNORE, Images
from saltseg.errors import SaltsegError
from saltseg.metrics import CURVE, best_threshold
from saltseg.statistics import LEVEL, Floats, interval
from saltseg.statistics import Images as Drawn


@dataclass(frozen=True)
class Delineation:
    """One arm's salt against the truth, over all its seeds.

    Attributes:
        top: errors of the top of salt, in samples, of all traces of salt images that have one in both.
        base: likewise of the base.
        missed: the share of true salt's traces without predicted salt.
        hausdorff: HD95 in pixels of the images whose salt has a boundary, NaN where the prediction has none.
        everywhere: histogram of all labelled pixels, see :mod:`saltseg.calibration`.
        band: likewise of those around the true boundaries.
    """

    top: NDArray[np.int64]
    base: NDArray[np.int64]
    missed: float
    hausdorff: Floats
    everywhere: Counts
    band: Counts


def find_truths(arms: Sequence[Arm], data: Images | None) -> dict[str, Truth] | None:
    """The truth of every image, from a run that kept it or from the data; None where neither has it."""
    ids = arms[0].tables[0].index
    for arm in arms:
        kept = {name: arm.of(name)[0].mask(name) for name in ids}
        if None not in kept.values():
            return {name: Truth.of(*mask) for name, mask in kept.items() if mask is not None}
    if data is None:
        return None
    masks = dict(zip(data.ids, data.masks, strict=True))
    return {name: Truth.of(masks[name] == 1, masks[name] != IGNORE) for name in ids}


def delineate(arm: Arm, truths: Mapping[str, Truth]) -> Delineation:
    """All seeds of an arm against the truth, at each run's threshold.

    Raises:
        SaltsegError: if a run was scored against other labels.
    """
    tops, bases, hausdorff = [], [], []
    traces = missed = 0
    everywhere, band = np.zeros((2, 256), np.int64), np.zeros((2, 256), np.int64)
    for name, truth in truths.items():
        for run in arm.of(name):
            probability = run.probability(name)
            if run.true_pixels(name) != truth.salt.sum():
                raise SaltsegError(f"runs: {run.run.path} was scored against another mask of {name} than the others.")
            labelled = truth.labelled
            everywhere += histogram(probability[labelled], truth.salt[labelled])
            if not truth.salt.any():
                continue
            if truth.boundary.any():
                band += histogram(probability[truth.band], truth.salt[truth.band])
            predicted = (probability > 255 * run.threshold) & labelled
            found = picks(truth, predicted)
            tops.append(found.top)
            bases.append(found.base)
            traces, missed = traces + found.traces, missed + found.missed
            if truth.boundary.any():
                hausdorff.append(hausdorff95(truth, predicted))
    return Delineation(
        np.concatenate([np.empty(0, np.int64), *tops]),
        np.concatenate([np.empty(0, np.int64), *bases]),
        missed / traces if traces else float("nan"),
        np.array(hausdorff),
        everywhere,
        band,
    )


@dataclass(frozen=True)
class ThresholdCurve:
    """The validation IoU of one arm at each threshold of the curve.

    Attributes:
        iou: 19 means.
        low: 19 lower ends of their 95% intervals.
        high: 19 upper ends.
        best: the best threshold.
        best_low: the lower end of the 95% interval of the best threshold, when images are drawn again.
        best_high: its upper end.
    """

    iou: Floats
    low: Floats
    high: Floats
    best: float
    best_low: float
    best_high: float


def threshold_curve(arm: Arm) -> ThresholdCurve:
    """The mean curve over seeds, with bands; of the images that thresholds are chosen on."""
    groups, iou = arm.validation_curve()
    draws = Drawn(groups).means(iou)
    means = interval(iou, draws)
    near = np.argsort(np.abs(np.array(CURVE) - 0.5), kind="stable")  # of ties, the nearest to 0.5
    best = np.array(CURVE)[near][draws[:, near].argmax(1)]
    low, high = np.quantile(best, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="closest_observation")
    return ThresholdCurve(
        np.array([m.value for m in means]),
        np.array([m.low for m in means]),
        np.array([m.high for m in means]),
        best_threshold(iou.mean(0)),
        float(low),
        float(high),
    )
