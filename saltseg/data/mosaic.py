"""Which tiles touch: many tiles of TGS were cut from common sections, and the edges of neighbours continue each other.

The last column of a tile and the first of its right neighbour are one sample apart. Extrapolated by half a sample each,
they are estimates of the same column and correlate. Gain and offset don't matter: each tile was stretched on its own.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from saltseg.data.images import Array8

#: The least correlation of two touching edges, and how far below it the second best candidate of either must lie.
CORRELATION, MARGIN = 0.85, 0.03
#: Edges of a lower standard deviation (grey values) say nothing: any other flat edge fits them.
CONTRAST = 3.0

Floats = NDArray[np.float32]
Side = Literal["left", "right", "top", "bottom"]


class Pair(NamedTuple):
    """Tile ``second`` lies to the right of ``first`` or below it."""

    first: int
    second: int
    direction: Literal["right", "below"]


def edge(image: Array8, side: Side, depth: int = 0) -> Array8:
    """The outermost column or row of an image H×W on one side, or the one ``depth`` pixels further in."""
    index = depth if side in ("left", "top") else -1 - depth
    return image[:, index] if side in ("left", "right") else image[index]


def neighbours(images: Sequence[Array8]) -> list[Pair]:
    """The pairs of tiles (H×W, uint8) that touch: each edge is by far the other's best match. Black ones touch none."""
    pairs = [Pair(i, j, "right") for i, j in _match(images, "right", "left")]
    return pairs + [Pair(i, j, "below") for i, j in _match(images, "bottom", "top")]


def groups(images: Sequence[Array8]) -> list[str]:
    """N names of mosaics: tiles tied by a chain of touching tiles share one, a tile without neighbours has its own."""
    pairs = neighbours(images)
    first, second = [p.first for p in pairs], [p.second for p in pairs]
    graph = coo_array((np.ones(len(pairs), bool), (first, second)), shape=(len(images), len(images)))
    return [f"mosaic{label}" for label in connected_components(graph, directed=False)[1]]


def _match(images: Sequence[Array8], side: Side, facing: Side) -> list[tuple[int, int]]:
    lengths = np.array([edge(image, side).size if min(image.shape) > 1 else 0 for image in images])
    pairs: list[tuple[int, int]] = []
    for length in np.unique(lengths[lengths > 2]):
        tiles = np.flatnonzero(lengths == length)
        ours, theirs = (_normalised([images[i] for i in tiles.tolist()], s) for s in (side, facing))
        found, score, second = _best(ours, theirs)
        back, _, second_back = _best(theirs, ours)
        mutual = back[found] == np.arange(len(tiles))
        clear = score - np.maximum(second, second_back[found]) > MARGIN
        good = mutual & clear & (score > CORRELATION)
        pairs += zip(tiles[good].tolist(), tiles[found[good]].tolist(), strict=True)
    return pairs


def _normalised(images: Sequence[Array8], side: Side) -> Floats:
    """N×L: the edges, extrapolated by half a sample, with mean 0 and norm 1; 0 where there is no contrast."""
    outer, inner = (np.stack([edge(image, side, depth) for image in images]).astype(np.float32) for depth in (0, 1))
    edges = 1.5 * outer - 0.5 * inner
    edges -= edges.mean(1, keepdims=True)
    norm = np.linalg.norm(edges, axis=1, keepdims=True)
    flat = norm < CONTRAST * np.sqrt(edges.shape[1])
    return np.where(flat, 0, edges / np.maximum(norm, 1e-6)).astype(np.float32)


def _best(ours: Floats, theirs: Floats, chunk: int = 2000) -> tuple[NDArray[np.intp], Floats, Floats]:
    """For each edge of N the index of the best of the N others, its correlation, and that of the second best."""
    index, best, second = np.zeros(len(ours), np.intp), np.zeros(len(ours), np.float32), np.zeros(len(ours), np.float32)
    for start in range(0, len(ours), chunk):  # N² correlations need not fit in memory
        correlation = ours[start : start + chunk] @ theirs.T
        rows = np.arange(len(correlation))
        part = slice(start, start + len(rows))
        correlation[rows, rows + start] = -1  # a tile doesn't touch itself
        index[part] = correlation.argmax(1)
        best[part] = correlation[rows, index[part]]
        correlation[rows, index[part]] = -1
        second[part] = correlation.max(1)
    return index, best, second
