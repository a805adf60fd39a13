"""Salt as bodies and surfaces: connected through a volume that is seen section by section, with its tops and bases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, sparse

Bool = NDArray[np.bool_]

#: A point of a surface as it waits for the number of its body.
_POINT = np.dtype(
    [("body", "i8"), ("surface", "i1"), ("inline", "i4"), ("crossline", "i4"), ("x", "f8"), ("y", "f8"), ("z", "f8")]
)
_SURFACES = ("top", "base")
_CHUNK = 1 << 16


def holes(salt: Bool, live: Bool) -> tuple[Bool, int]:
    """What is enclosed in the salt of a section without being salt.

    Args:
        salt: samples × traces.
        live: of the same shape; what isn't live is no hole.

    Returns:
        Where, samples × traces; how many, connected through common edges.
    """
    found = ndimage.binary_fill_holes(salt) & ~salt & live
    return found, int(ndimage.label(found)[1])


class Bodies:
    """Connected bodies of salt, through common faces of samples, in memory one section and a few numbers per part.

    A part is what is connected within its section; parts of neighbouring sections that touch are joined in the end
    (union by ``scipy.sparse.csgraph.connected_components``).
    """

    def __init__(self) -> None:
        self._sizes: list[NDArray[np.int64]] = []
        self._edges: list[NDArray[np.int64]] = []
        self._count = 0
        self._before: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None

    def add(self, salt: Bool, across: NDArray[np.int32]) -> NDArray[np.int64]:
        """The next section's salt, samples × traces, whose traces have the labels ``across``, rising and unique.

        Returns:
            Samples × traces: numbers of parts from 1 on, 0 outside salt.
        """
        labels, count = ndimage.label(salt, output=np.int64)
        self._sizes.append(np.bincount(labels.ravel(), minlength=count + 1)[1:])
        labels[labels > 0] += self._count
        self._count += count
        if self._before is not None:
            before, names = self._before
            _, here, there = np.intersect1d(across, names, assume_unique=True, return_indices=True)
            pairs = np.stack([labels[:, here].ravel(), before[:, there].ravel()])
            self._edges.append(np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1))
        self._before = labels, across
        return np.asarray(labels)

    def join(self) -> NDArray[np.int64]:
        """The body of each part, from the largest, 1, downwards; entry 0 is 0."""
        if not self._count:
            return np.zeros(1, np.int64)
        edges = np.concatenate([*self._edges, np.empty((2, 0), np.int64)], axis=1) - 1
        graph = sparse.coo_matrix((np.ones(edges.shape[1], np.bool_), tuple(edges)), shape=(self._count,) * 2)
        body = sparse.csgraph.connected_components(graph, directed=False)[1]
        size = np.bincount(body, weights=np.concatenate(self._sizes))
        rank = np.empty(len(size), np.int64)
        rank[np.argsort(-size, kind="stable")] = np.arange(1, len(size) + 1)
        return np.concatenate([[0], rank[body]])


def surfaces(labels: NDArray[np.int64], live: Bool) -> tuple[NDArray[Any], ...]:
    """Where each trace enters and leaves salt.

    A run of salt gives a top, its first sample, and a base, its last. Where it is cut off by the end of what is live
    there is no telling, and no point.

    Args:
        labels: samples × traces, the part of each sample, 0 outside salt.
        live: of the same shape.

    Returns:
        Of each point: 0 for a top and 1 for a base, sample, trace, part.
    """
    salt = np.pad(labels > 0, ((1, 1), (0, 0)))
    measured = np.pad(live, ((1, 1), (0, 0)))
    inside = salt[1:-1]
    found = [
        np.nonzero((inside & ~other & seen).T) for other, seen in ((salt[:-2], measured[:-2]), (salt[2:], measured[2:]))
    ]  # transposed: trace after trace
    trace, sample = (np.concatenate(axis) for axis in zip(*found, strict=True))
    kind = np.repeat(np.arange(2), [len(f[0]) for f in found])
    return kind, sample, trace, labels[sample, trace]


class Points:
    """The points of all surfaces, kept in a file until it is known which parts are one body.

    Args:
        scratch: the file.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.scratch.write_bytes(b"")

    def add(self, **columns: NDArray[Any]) -> None:
        """N points: ``body`` (the part), ``surface`` (0, 1), ``inline``, ``crossline``, ``x``, ``y``, ``z``."""
        rows = np.empty(len(columns["body"]), _POINT)
        for name, values in columns.items():
            rows[name] = values
        with self.scratch.open("ab") as file:
            file.write(rows.tobytes())

    def write(self, path: Path, body: NDArray[np.int64], z: str) -> None:
        """The CSV, whole: ``body_id,surface,inline,crossline,x,y`` and ``z``, which is ``time`` or ``depth``."""
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            names = ["body_id", "surface", "inline", "crossline", "x", "y", z]
            file.write(",".join(names) + "\n")
            for rows in self._read():
                table = pd.DataFrame(dict(zip(names, (rows[n] for n in _POINT.names or ()), strict=True)))
                table["body_id"] = body[rows["body"]]
                table["surface"] = np.array(_SURFACES)[rows["surface"]]
                table.to_csv(file, index=False, header=False, lineterminator="\n", float_format="%.10g")
        partial.replace(path)
        self.scratch.unlink()

    def _read(self) -> Iterator[NDArray[Any]]:
        with self.scratch.open("rb") as file:
            while piece := file.read(_CHUNK * _POINT.itemsize):
                yield np.frombuffer(piece, _POINT)
