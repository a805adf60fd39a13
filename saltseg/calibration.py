"""Are probabilities what they say? Of pixels called 70% salt, 70% should be salt.

A histogram here is 2×256: pixels by truth (no salt, salt) and by probability in steps of 1/255, as runs keep it.
The expected calibration error is that of Guo et al., *On Calibration of Modern Neural Networks*, 2017
(https://arxiv.org/abs/1706.04599), in 20 bins of equal width.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BINS = 20

Counts = NDArray[np.int64]


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
