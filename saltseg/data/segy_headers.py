"""The trace headers of a SEG-Y file: all words that matter of all traces in one pass, and the lines that they make up.

Byte positions count from 1, as in the standard.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saltseg.data.segy_layout import TRACE, Layout
from saltseg.errors import SaltsegError

log = logging.getLogger(__name__)

CHUNK = 4096  # headers in memory at once: 1 MB
LONG = 20_000  # traces of a 2-D line, from which on it is rather a cube with its numbers at other bytes


@dataclass(frozen=True)
class Keys:
    """The first byte, counted from 1, of four words of the trace header, each of four bytes.

    The defaults are those of SEG-Y revision 1.
    """

    inline: int = 189
    crossline: int = 193
    x: int = 181
    y: int = 185


@dataclass(frozen=True)
class Headers:
    """What the headers of n traces say.

    Attributes:
        inline, crossline: numbers at the keys' bytes.
        x, y: at the keys' bytes, the coordinate scalar (bytes 71–72) applied.
        dead: whether the identification code (bytes 29–30) is 2.
        cdp: number (bytes 21–24).
        offset: from source to receiver (bytes 37–40).
        delay: of the first trace (bytes 109–110), the scalar of times (bytes 215–216) applied.
        interval: of the first trace (bytes 117–118).
    """

    inline: NDArray[np.int32]
    crossline: NDArray[np.int32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dead: NDArray[np.bool_]
    cdp: NDArray[np.int32]
    offset: NDArray[np.int32]
    delay: float
    interval: int


@dataclass(frozen=True)
class Lines:
    """How the traces are arranged.

    Attributes:
        is_cube: whether their numbers span a grid: at least as many traces as inlines and crosslines together (a
            crooked line has fewer).
        placed: of each trace, whether it is somewhere; padding is dead and has no numbers.
        numbers: of the inlines and of the crosslines, rising.
        label: of each trace of a 2-D line: the CDP where each trace has its own, else 1 … n.
    """

    is_cube: bool
    placed: NDArray[np.bool_]
    numbers: dict[str, NDArray[np.int32]]
    label: NDArray[np.int32]


def pieces(path: Path, layout: Layout) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """All trace headers: the number of the first trace of each piece, and n×240 bytes.

    Raises:
        SaltsegError: if the file has become shorter.
    """
    with path.open("rb", buffering=0) as file:
        for first in range(0, layout.traces, CHUNK):
            piece = np.empty((min(CHUNK, layout.traces - first), TRACE), np.uint8)
            for k, header in enumerate(piece):
                file.seek(layout.offset(first + k))
                if file.readinto(header.data) != TRACE:
                    raise SaltsegError(f"{path} ends within trace {first + k + 1}: it has become shorter.")
            yield first, piece


def read_headers(path: Path, layout: Layout, keys: Keys) -> Headers:
    """The words of all traces; warns if they begin at different times.

    Raises:
        SaltsegError: if a key is no place in a trace header.
    """
    for name, byte in vars(keys).items():
        if not 1 <= byte <= TRACE - 3:
            raise SaltsegError(f"{name} at byte {byte}: a trace header has words of 4 bytes at bytes 1 … {TRACE - 3}.")
    inline, crossline, cdp, offset = np.empty((4, layout.traces), np.int32)
    x, y = np.empty((2, layout.traces))
    dead = np.empty(layout.traces, bool)
    delays: set[float] = set()
    delay, interval = 0.0, 0
    for first, piece in pieces(path, layout):

        def word(byte: int, kind: str = "i4", piece: NDArray[np.uint8] = piece) -> NDArray[Any]:
            dtype = np.dtype(layout.order + kind)
            return np.ascontiguousarray(piece[:, byte - 1 : byte - 1 + dtype.itemsize]).view(dtype)[:, 0]

        part = slice(first, first + len(piece))
        inline[part], crossline[part], cdp[part], offset[part] = map(word, (keys.inline, keys.crossline, 21, 37))
        scale = _factor(word(71, "i2"))
        x[part], y[part] = word(keys.x) * scale, word(keys.y) * scale
        dead[part] = word(29, "i2") == 2
        starts = word(109, "i2") * _factor(word(215, "i2"))
        delays.update(starts.tolist())
        if first == 0:
            delay, interval = float(starts[0]), int(word(117, "u2")[0])
    if len(delays) > 1:
        log.warning(
            "%s: its traces begin at different times or depths (delays of %g … %g): they are taken side by side, as if "
            "all began at %g.", path, min(delays), max(delays), delay,
        )  # fmt: skip
    return Headers(inline, crossline, x, y, dead, cdp, offset, delay, interval)


def find_lines(path: Path, keys: Keys, headers: Headers) -> Lines:
    """The lines of post-stack data, a cube's or one 2-D line; warns of a line that is long enough for a cube.

    Raises:
        SaltsegError: if several traces are at one place: pre-stack data.
    """
    placed = ~(headers.dead & (headers.inline == 0) & (headers.crossline == 0))
    inline, crossline = headers.inline[placed], headers.crossline[placed]
    numbers = {"inline": np.unique(inline), "crossline": np.unique(crossline)}
    counts = [len(n) for n in numbers.values()]
    repeated = _repeated(inline, crossline)
    is_cube = min(counts) > 1 and len(inline) - repeated >= sum(counts)
    label = np.arange(1, len(headers.cdp) + 1, dtype=np.int32)
    what = "the inline and crossline numbers"
    if not is_cube:
        what = "the CDP number (bytes 21–24), but another offset (bytes 37–40),"
        repeated = _repeated(headers.cdp)
        varies = bool(np.ptp(headers.cdp))
        if varies and not repeated:
            label = headers.cdp
        if not varies or repeated == _repeated(headers.cdp, headers.offset):
            repeated = 0
    if repeated:
        raise SaltsegError(
            f"{path}: {repeated} of {len(label)} traces have {what} of another one. This looks like pre-stack data; "
            "what is expected is post-stack data, one trace at each place: stack it first. Or, if the line numbers lie "
            f"elsewhere than at bytes {keys.inline} and {keys.crossline} of the trace headers, say where."
        )
    if not is_cube and len(label) > LONG:
        log.warning(
            "%s is taken for one 2-D line of %d traces, read as a whole, for bytes %d and %d of the trace headers hold "
            "no inline and crossline numbers of a grid. If it is a cube, say where they lie.",
            path, len(label), keys.inline, keys.crossline,
        )  # fmt: skip
    return Lines(is_cube, placed, numbers, label)


def _factor(scalar: NDArray[np.int16]) -> NDArray[np.float64]:
    """What a SEG-Y scalar multiplies by: a negative one divides, 0 is 1."""
    size = np.abs(np.where(scalar == 0, 1, scalar).astype(float))
    factor: NDArray[np.float64] = np.where(scalar < 0, 1 / size, size)
    return factor


def _repeated(first: NDArray[np.int32], second: NDArray[np.int32] | None = None) -> int:
    """How many of n numbers, or pairs of numbers, are there already."""
    pairs = first.astype(np.int64) << 32
    if second is not None:
        pairs |= second.view(np.uint32)
    pairs.sort()
    return int((pairs[1:] == pairs[:-1]).sum())
