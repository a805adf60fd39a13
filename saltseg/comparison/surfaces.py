"""How far off are the surfaces? Top and base of salt per trace, the Hausdorff distance, the band around boundaries.

A trace is a column of an image, a sample is a row: distances are in samples down a trace, and in pixels elsewhere.
Where salt runs out of an image there is no surface to find, so the image's edge is none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: Interpreters' own picks are no finer than this, in samples.
PICKING = 2
#: The band around boundaries that a calibration looks at: 7 pixels, the boundary and 3 on either side.
BAND = 3


@dataclass(frozen=True)
class Truth:
    """The true salt of one image, with what is worth knowing once for all predictions of it.

    Attributes:
        salt: H×W.
        labelled: H×W; what isn't, counts nowhere.
        boundary: H×W, the outermost pixels of the salt.
        distance: H×W, pixels to the nearest of them; inf where there is none.
    """

    salt: Mask
    labelled: Mask
    boundary: Mask
    distance: Floats

    @classmethod
    def of(cls, salt: Mask, labelled: Mask) -> "Truth":
        outline = boundary(salt)
        return cls(salt, labelled, outline, distance(outline))

    @property
    def band(self) -> Mask:
        """H×W, the labelled pixels around the boundary."""
        return np.asarray((self.distance <= BAND) & self.labelled)


def boundary(salt: Mask) -> Mask:
    """The pixels of ``salt`` (H×W) with one beside, above or below them that is none."""
    return np.asarray(salt & ~binary_erosion(salt, border_value=1))


def distance(points: Mask) -> Floats:
    """Pixels to the nearest of ``points`` (H×W), inf where there is none."""
    if not points.any():
        return np.full(points.shape, np.inf)
    return np.asarray(distance_transform_edt(~points))


def hausdorff95(truth: Truth, predicted: Mask) -> float:
    """The 95th percentile of the distances between the two boundaries, the larger of both directions, in pixels.

    As google-deepmind/surface-distance has it. NaN where either has no boundary.
    """
    outline = boundary(predicted)
    if not outline.any() or not truth.boundary.any():
        return float("nan")
    there, back = truth.distance[outline], distance(outline)[truth.boundary]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


@dataclass(frozen=True)
class Picks:
    """The surfaces of one image against the truth.

    Attributes:
        top: the error of the top of salt, in samples, of each trace where both have one.
        base: likewise of the base.
        traces: traces with true salt.
        missed: those of them without predicted salt.
    """

    top: NDArray[np.int64]
    base: NDArray[np.int64]
    traces: int
    missed: int


def picks(truth: Truth, predicted: Mask) -> Picks:
    """The first and the last sample of salt in each trace, compared; H×W.

    The true surface must lie inside the image; a predicted one at its edge is as wrong as it is far off.
    """
    rows = len(truth.salt)
    there, found = truth.salt.any(0), predicted.any(0)
    both = there & found
    top, base = _first(truth.salt), rows - 1 - _first(truth.salt[::-1])
    top_error = np.abs(_first(predicted) - top)
    base_error = np.abs(rows - 1 - _first(predicted[::-1]) - base)
    return Picks(
        top_error[both & (top > 0)], base_error[both & (base < rows - 1)], int(there.sum()), int((there & ~found).sum())
    )


def _first(salt: Mask) -> NDArray[np.int64]:
    """W rows of the first salt of each trace; 0 where there is none."""
    return np.asarray(salt.argmax(0))
