"""What every dataset is read into: images, masks and what is known of each, decoded once and held as uint8."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The value of mask pixels that count neither for the loss nor for a score.
IGNORE = 255

Array8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes:
        ids: N unique names.
        images: N arrays of shape H×W, uint8, grey; sizes may differ between images.
        masks: N arrays of the same shapes, uint8: 0 background, 1 salt, :data:`IGNORE` not labelled.
        depth: N floats, NaN where unknown.
        group: N names; what shares one belongs together (a section, a mosaic); "" where unknown.
        part: N of train/val/test where the dataset itself says so, else None.
        suspect: N booleans; labels that are probably wrong.
    """

    ids: Sequence[str]
    images: Sequence[Array8]
    masks: Sequence[Array8]
    depth: NDArray[np.float64]
    group: Sequence[str]
    suspect: NDArray[np.bool_]
    part: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def coverage(self) -> NDArray[np.float64]:
        """N shares of salt among the labelled pixels, in [0, 1]."""
        return np.array([float((m == 1).sum() / max((m != IGNORE).sum(), 1)) for m in self.masks])

    def titles(self) -> list[str]:
        """What to write above each image: its id, salt share and depth."""
        return [
            f"{name}\n{share:.0%} salt" + ("" if np.isnan(depth) else f", z {depth:.0f}")
            for name, share, depth in zip(self.ids, self.coverage, self.depth, strict=True)
        ]
