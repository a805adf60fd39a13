"""Kaggle's run-length encoding of masks: 1-based "start length" pairs over the pixels taken column by column.

https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saltseg.errors import SaltsegError


def encode(mask: NDArray[Any]) -> str:
    """The RLE of a mask H×W (non-zero is salt); "" for an empty one."""
    flat = np.asarray(mask != 0, np.int8).ravel(order="F")
    # +1 where a run starts, -1 one past its end; the borders are background.
    change = np.diff(flat, prepend=0, append=0)
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    return " ".join(map(str, np.stack([starts + 1, ends - starts], axis=1).ravel()))


def decode(rle: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask H×W (0 or 1) of an RLE.

    Raises:
        SaltsegError: if the string is not pairs of numbers, or its runs overlap, go backwards or leave the image.
    """
    height, width = shape
    try:
        numbers = np.array(rle.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise SaltsegError(f"RLE {_short(rle)} holds something that is not a whole number.") from error
    if numbers.size % 2:
        raise SaltsegError(f"RLE {_short(rle)} has {numbers.size} numbers, expected pairs of start and length.")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    if numbers.size and (
        edges[0] < 0 or edges[-1] > height * width or (lengths < 1).any() or (np.diff(edges) < 0).any()
    ):
        raise SaltsegError(f"RLE {_short(rle)} does not fit {height}×{width}: runs overlap, go backwards or leave it.")
    flat = np.zeros(height * width + 1, np.int8)
    np.add.at(flat, edges[0::2], 1)  # add.at, because adjacent runs share an edge
    np.add.at(flat, edges[1::2], -1)
    return np.cumsum(flat[:-1], dtype=np.int8).astype(np.uint8).reshape(shape, order="F")


def _short(rle: str) -> str:
    return repr(rle if len(rle) <= 40 else rle[:40] + "…")
