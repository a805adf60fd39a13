"""Scores of salt masks: per image, for every threshold of a curve in one pass over the pixels, then the mean.

The definitions, on the native pixels, with P the pixels whose probability exceeds the threshold and T the true ones:

- ``iou`` = |P∧T| / |P∨T|; 1 when both are empty, 0 when exactly one is.
- ``dice`` = 2|P∧T| / (|P| + |T|), with the same rule for empty ones.
- ``map`` = the TGS challenge's: the share of thresholds t in 0.50, 0.55 … 0.95 with iou > t; an empty truth scores 1
  if the prediction is empty, else 0.
- ``micro_iou`` = intersections and unions summed over all images, then divided.
- ``iou_salt`` = mean iou over the images whose truth has salt; ``empty_correct`` = the share of truly empty images
  whose prediction is empty. (``iou`` alone mixes detection with delineation.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError

#: The thresholds of a curve: 0.05, 0.10 … 0.95.
CURVE: tuple[float, ...] = tuple(k / 20 for k in range(1, 20))

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def histograms(probabilities: Tensor, truths: Tensor, thresholds: Sequence[float] = CURVE) -> Tensor:
    """Count the pixels of each image by truth and by the thresholds between which their probability lies.

    All that the scores need, in one pass; a pixel in bin k exceeds exactly the first k thresholds.

    Args:
        probabilities: B×1×H×W in [0, 1].
        truths: B×1×H×W uint8: 0, 1, or 255 for pixels that don't count.
        thresholds: K ascending numbers.

    Returns:
        B×2×(K+1) int64: image, truth, bin.
    """
    bins = len(thresholds) + 1
    edges = torch.tensor(list(thresholds), dtype=torch.float32, device=probabilities.device)
    # right=False puts a probability equal to a threshold below it: P is probability > threshold, strictly.
    level = torch.bucketize(probabilities.float().flatten(1), edges, out_int32=True, right=False)
    truth = truths.to(probabilities.device).flatten(1)
    image = torch.arange(len(level), device=level.device, dtype=torch.int32).view(-1, 1)
    code = (image * 2 + (truth == 1)) * bins + level
    if (truth == IGNORE).any():
        code = code[truth != IGNORE]
    return torch.bincount(code.flatten(), minlength=len(level) * 2 * bins).view(-1, 2, bins)


@dataclass(frozen=True)
class Counts:
    """What the scores are made of.

    Attributes:
        intersection: N×K, pixels predicted and true.
        predicted: N×K, pixels predicted.
        truth: N, true pixels.
        pixels: N, pixels that count.
    """

    intersection: Ints
    predicted: Ints
    truth: Ints
    pixels: Ints

    @classmethod
    def of(cls, histogram: Tensor | Ints) -> "Counts":
        """From N×2×(K+1) histograms (see :func:`histograms`) to counts at the K thresholds."""
        table = np.asarray(histogram, dtype=np.int64)
        above = table[..., ::-1].cumsum(-1)[..., ::-1]
        return cls(above[:, 1, 1:], above[:, :, 1:].sum(1), above[:, 1, 0], above[:, :, 0].sum(1))

    def at(self, k: int) -> "Counts":
        """The counts at the k-th threshold alone, as N×1."""
        return Counts(self.intersection[:, k : k + 1], self.predicted[:, k : k + 1], self.truth, self.pixels)

    @property
    def union(self) -> Ints:
        """N×K pixels predicted or true."""
        return self.predicted + self.truth[:, None] - self.intersection

    @property
    def iou(self) -> Floats:
        """N×K in [0, 1]."""
        return _ratio(self.intersection, self.union)

    @property
    def dice(self) -> Floats:
        """N×K in [0, 1]."""
        return _ratio(2 * self.intersection, self.predicted + self.truth[:, None])

    @property
    def ap(self) -> Floats:
        """N×K in {0, 0.1 … 1}: the challenge's precision of one image, whose mean is ``map``.

        In integers, 20·I > k·U for k = 10 … 19: floats misjudge an iou that is exactly a threshold.
        """
        passed = 20 * self.intersection[..., None] > np.arange(10, 20) * self.union[..., None]
        empty = (self.truth == 0)[:, None]
        return np.asarray(np.where(empty, self.predicted == 0, passed.mean(-1)), np.float64)

    def summary(self) -> dict[str, Floats]:
        """Each score as K numbers; NaN where no image can tell (``iou_salt`` without salt)."""
        salt = self.truth > 0
        intersection, predicted, truth = self.intersection.sum(0), self.predicted.sum(0), self.truth.sum()
        return {
            "iou": _mean(self.iou),
            "dice": _mean(self.dice),
            "map": _mean(self.ap),
            "micro_iou": _ratio(intersection, predicted + truth - intersection),
            "iou_salt": _mean(self.iou[salt]),
            "empty_correct": _mean((self.predicted == 0)[~salt].astype(np.float64)),
            "precision": _ratio(intersection, predicted),
            "recall": _ratio(intersection, np.broadcast_to(truth, predicted.shape)),
        }


#: The scores that stand in a run's metrics, in this order.
SCORES = ("iou", "dice", "map", "micro_iou", "iou_salt", "empty_correct")


def _ratio(part: Ints, whole: Ints) -> Floats:
    """The quotient, and 1 where there is nothing at all: nothing asked, nothing wrong."""
    return np.asarray(np.where(whole == 0, 1.0, part / np.maximum(whole, 1)), np.float64)


def _mean(rows: Floats) -> Floats:
    """Over the N rows, NaN where there are none; column by column, so that a curve is to the bit each one alone."""
    if not len(rows):
        return np.full(rows.shape[1], np.nan)
    return np.asarray(np.ascontiguousarray(rows.T).mean(1), np.float64)


def best_threshold(iou: Floats, thresholds: Sequence[float] = CURVE) -> float:
    """The threshold of the highest iou; of ties, the one nearest to 0.5."""
    ties = [t for t, score in zip(thresholds, iou, strict=True) if score == iou.max()]
    return min(ties, key=lambda t: abs(t - 0.5))


def check_threshold(threshold: float) -> float:
    """The threshold itself.

    Raises:
        SaltsegError: if it isn't strictly between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise SaltsegError(f"threshold={threshold}: expected a number between 0 and 1, such as 0.5.")
    return threshold


def to_threshold(asked: Any) -> float:
    """A threshold as a person gives it, where ``best`` is possible as well but was not asked for.

    Raises:
        SaltsegError: if it is no number strictly between 0 and 1.
    """
    try:
        return check_threshold(float(asked))
    except (ValueError, TypeError) as error:
        raise SaltsegError(f"threshold={asked}: expected a number between 0 and 1, or best.") from error


class SegmentationScores(Metric):
    """The scores of this module at one threshold, gathered over an epoch.

    Args:
        threshold: a pixel is salt when its probability exceeds it.
    """

    full_state_update = False
    counted: list[Tensor]

    def __init__(self, threshold: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.threshold = threshold
        self.add_state("counted", default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, truths: Tensor) -> None:
        """Take in B×1×H×W probabilities and truths (uint8; 255 doesn't count)."""
        self.counted.append(histograms(probabilities, truths, [self.threshold]))

    def compute(self) -> dict[str, Tensor]:
        """Each score by name."""
        summary = Counts.of(dim_zero_cat(self.counted).cpu()).summary()
        return {name: torch.tensor(summary[name][0], dtype=torch.float32) for name in SCORES}
