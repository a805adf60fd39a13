"""From an image to what a net takes, and back: fitting to a multiple of 32 and cropping to the native size again."""

from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from saltseg.data.images import IGNORE, Array8

Fit = Literal["pad", "resize"]
Normalization = Literal["imagenet", "tile"]
Length = TypeVar("Length", int, Tensor)

#: Encoders of five stages halve the image five times.
MULTIPLE = 32


def fitted_shape(*shapes: tuple[int, ...]) -> tuple[int, int]:
    """The smallest (H, W), both multiples of 32, that holds every shape."""
    height, width = (fitted_length(max(s[axis] for s in shapes)) for axis in (0, 1))
    return height, width


def fitted_length(length: Length) -> Length:
    """The multiple of 32 that holds so many rows or columns; of a tensor as well, as a trace can follow it."""
    # Not -(-length // MULTIPLE): the exporter rounds the quotient of a negative number the other way.
    return (length + MULTIPLE - 1) // MULTIPLE * MULTIPLE


def margins(native: tuple[int, ...], fitted: tuple[int, ...]) -> tuple[int, int]:
    """Rows above and columns left of an image that is padded evenly from ``native`` to ``fitted``."""
    return (fitted[0] - native[0]) // 2, (fitted[1] - native[1]) // 2


def fit_array(array: Array8, shape: tuple[int, int], fit: Fit, *, is_mask: bool = False) -> Array8:
    """An H×W image or mask brought to ``shape``: mirrored beyond its edges (``pad``) or stretched (``resize``)."""
    if array.shape == shape:
        return array
    if fit == "resize":
        # Exact: the same bits on every machine and version of OpenCV, and so in an exported network.
        how = cv2.INTER_NEAREST_EXACT if is_mask else cv2.INTER_LINEAR_EXACT
        return np.asarray(cv2.resize(array, shape[::-1], interpolation=how), np.uint8)
    top, left = margins(array.shape, shape)
    bottom, right = shape[0] - array.shape[0] - top, shape[1] - array.shape[1] - left
    return np.pad(array, ((top, bottom), (left, right)), mode="reflect")


def unfit(maps: Tensor, native: tuple[int, int], fit: Fit) -> Tensor:
    """The inverse of :func:`fit_array` for a B×1×H×W stack of probabilities: B×1×h×w with (h, w) = ``native``.

    Exactly the identity after padding; bilinear after resizing.
    """
    if fit == "resize":
        return maps if tuple(maps.shape[-2:]) == native else stretch(maps, native)
    top, left = margins(native, maps.shape[-2:])
    return maps[..., top : top + native[0], left : left + native[1]]


def stretch(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """B×C×h×w to B×C×H×W with (H, W) = ``shape``, bilinear; halving averages 2×2 pixels."""
    return functional.interpolate(maps, shape, mode="bilinear", align_corners=False, antialias=False)


class Normalize(nn.Module):
    """The first layer of every network: grey 0…255 (B×1×H×W) to the B×3×H×W that the encoder was trained for.

    Args:
        kind: ``imagenet``: to [0, 1], then minus mean over standard deviation of the encoder's own training data.
            ``tile``: each image minus its median over its standard deviation, clipped to ±3, whatever its contrast was.
        mean: of the three channels, in [0, 1].
        std: of the three channels.
    """

    def __init__(self, kind: Normalization, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.kind = kind
        # Buffers: they travel with a checkpoint, so that whoever loads it prepares images as training did.
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1))

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """B×1×H×W grey in 0…255, any dtype, to B×3×H×W float32."""
        grey = images.float()
        if self.kind == "tile":
            flat = grey.flatten(1)
            median = flat.median(dim=1).values.view(-1, 1, 1, 1)
            deviation = flat.std(dim=1).clamp_min(1e-3).view(-1, 1, 1, 1)
            return ((grey - median) / deviation).clamp(-3, 3).expand(-1, 3, -1, -1)
        return (grey / 255 - self.mean) / self.std


def as_target(mask: NDArray[np.uint8] | Tensor) -> tuple[Tensor, Tensor]:
    """A mask as (target in {0, 1} float32, ignored as bool), both of the mask's shape."""
    tensor = torch.as_tensor(mask)
    return (tensor == 1).float(), tensor == IGNORE
