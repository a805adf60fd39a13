"""Are probabilities what they say? Of pixels called 70% salt, 70% should be salt.

A histogram here is 2×256: pixels by truth (no salt, salt) and by probability in steps of 1/255, as runs keep it.
The expected calibration error is that of Guo et al., *On Calibration of Modern Neural Networks*, 2017
(https://arxiv.org/abs/1706.04599), in 20 bins of equal width. So is the remedy, temperature scaling: all logits are
divided by one number, fitted on validation. It moves no pixel across 0.5 and changes no order, so no score either.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from saltseg.data.images import IGNORE, Array8

BINS = 20
#: What whoever hands tempered probabilities on must say.
NO_TRANSFER = (
    "The temperature was fitted on validation images of the training survey. Calibration doesn't carry over to another "
    "survey: read these probabilities and uncertainties as an order, not as frequencies, until labels of it say more."
)

Counts = NDArray[np.int64]
Maps = Sequence[NDArray[np.floating]]

#: As near to 0 and 1 as float32 comes to both: a network that is surer than this is taken to be no surer.
_EDGE = 2.0**-24
#: Temperatures that are tried; what is outside is no calibration but a network that is always right, or never.
_COLDEST, _HOTTEST = 0.02, 50.0
#: Pixels that one number is fitted on.
_PIXELS = 500_000


def temper(probability: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Probabilities in [0, 1], their logits divided by ``temperature``: above 1 less sure, below 1 surer."""
    return np.asarray(expit(_logits(probability) / temperature), np.float32)


def fit_temperature(maps: Maps, masks: Sequence[Array8]) -> float:
    """The temperature with the smallest negative log likelihood.

    Args:
        maps: N arrays H×W of probabilities, untempered.
        masks: N arrays of the same shapes: 0 background, 1 salt, 255 not labelled, which doesn't count.

    Returns:
        A number from 0.02 to 50; 1 where no pixel has a label. Of many pixels an equal draw is taken.
    """
    rng = np.random.default_rng(0)
    share = _PIXELS / max(sum(m.size for m in masks), 1)
    right: list[NDArray[np.float64]] = []  # logits of the true class
    for probability, mask in zip(maps, masks, strict=True):
        p, m = probability.ravel(), mask.ravel()
        if share < 1:
            drawn = rng.integers(p.size, size=round(share * p.size))
            p, m = p[drawn], m[drawn]
        labelled = m != IGNORE
        right.append(_logits(p[labelled]) * np.where(m[labelled] == 1, 1.0, -1.0))
    margins = np.concatenate([np.empty(0), *right])
    if not len(margins):
        return 1.0
    found = minimize_scalar(
        lambda log: np.logaddexp(0, -margins / math.exp(log)).mean(),
        bounds=(math.log(_COLDEST), math.log(_HOTTEST)),
        method="bounded",
    )
    return math.exp(found.x)


def _logits(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(probability.astype(np.float64), _EDGE, 1 - _EDGE)))


def pooled(maps: Iterable[NDArray[np.floating]], masks: Sequence[Array8]) -> Counts:
    """2×256 of the labelled pixels of all images; ``maps`` and ``masks`` as in :func:`fit_temperature`."""
    total = np.zeros((2, 256), np.int64)
    for probability, mask in zip(maps, masks, strict=True):
        labelled = mask != IGNORE
        total += histogram(np.round(255 * probability[labelled]).astype(np.uint8), mask[labelled] == 1)
    return total


def histogram(probability: NDArray[np.uint8], salt: NDArray[np.bool_]) -> Counts:
    """2×256 of pixels given as two arrays of one shape."""
    return np.bincount(probability.astype(np.int64) + 256 * salt, minlength=512).reshape(2, 256)


def reliability(counts: Counts) -> pd.DataFrame:
    """A row per bin that has pixels: mean ``confidence``, share of ``salt``, ``pixels``."""
    level = np.arange(256) / 255
    place = np.minimum((level * BINS).astype(int), BINS - 1)
    pixels = np.bincount(place, counts.sum(0), BINS)
    called, salt = np.bincount(place, counts.sum(0) * level, BINS), np.bincount(place, counts[1], BINS)
    filled = pixels > 0
    return pd.DataFrame(
        {
            "confidence": called[filled] / pixels[filled],
            "salt": salt[filled] / pixels[filled],
            "pixels": pixels[filled].astype(np.int64),
        }
    )


def expected_calibration_error(counts: Counts) -> float:
    """The mean gap between confidence and share of salt over all pixels, in [0, 1]; NaN where there are none."""
    table = reliability(counts)
    gap = (table["confidence"] - table["salt"]).abs()
    return float((gap * table["pixels"]).sum() / table["pixels"].sum()) if len(table) else float("nan")
