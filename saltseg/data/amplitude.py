"""From the amplitudes of a survey to the grey that a network was trained on: which samples count, and the stretch.

Each tile of TGS was stretched between its own least and greatest amplitude, so a network knows no other contrast.
Here the same is done in windows of a tile's size on a regular grid, and in between the stretches of the nearest four
are mixed bilinearly, as CLAHE joins the tiles that it equalises (Zuiderveld, Contrast Limited Adaptive Histogram
Equalization, Graphics Gems IV, 1994). The grid belongs to the section, so there is no seam, and no sample depends on
where a network's tile begins.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from saltseg.data.images import Array8

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]

#: Of a section's root mean square: above a trace's first sample of this size lie its mute and the water, which is
#: quiet (−40 dB) but seldom silent.
QUIET = 1e-2

#: The same from below, where a record was padded: nothing but rounding (−100 dB). What a deep and weakly lit record
#: really measured is more than that.
SILENT = 1e-5

#: Fewer quiet samples than this at the end of a trace are a zero crossing.
SHORTEST = 4

#: A window with a smaller share of live samples has no contrast of its own.
SHARE = 0.05

#: Of a survey's live amplitudes, in percent: the bounds of ``segy.amplitude=survey``.
PERCENTILES = (0.5, 99.5)


def live(amplitude: Float, dead: Bool) -> Bool:
    """Which samples of a section measure rock.

    Not live are: traces flagged as dead or of one value throughout; NaN and infinite samples; the samples above the
    first that reaches :data:`QUIET` times the section's root mean square (mute, water); those below the last that
    reaches :data:`SILENT` times it (padding).

    Args:
        amplitude: samples × traces.
        dead: a flag for each trace.

    Returns:
        Samples × traces.
    """
    finite = np.isfinite(amplitude)
    values = np.where(finite, amplitude, 0)
    lowest = np.where(finite, amplitude, np.inf).min(axis=0, initial=np.inf)
    highest = np.where(finite, amplitude, -np.inf).max(axis=0, initial=-np.inf)
    alive = ~dead & (highest > lowest)
    measured = values[:, alive]
    if not measured.size:
        return np.zeros(amplitude.shape, np.bool_)
    # From 1 downwards, so that no square overflows.
    peak = float(np.abs(measured).max())
    size = np.abs(values) / peak
    rms = float(np.sqrt(np.square(size[:, alive], dtype=np.float64).mean()))
    above = _edge(size >= QUIET * rms)
    below = _edge(size[::-1] >= SILENT * rms)
    row = np.arange(len(amplitude))[:, None]
    return np.asarray(alive & finite & (row >= above) & (row < len(amplitude) - below))


def _edge(loud: Bool) -> NDArray[np.int64]:
    """Per column: samples before the first loud one, 0 where it comes at once."""
    quiet = np.where(loud.any(axis=0), loud.argmax(axis=0), len(loud))
    return np.where(quiet < SHORTEST, 0, quiet)


def stretch(amplitude: Float, live: Bool, window: tuple[int, int]) -> Array8:
    """A section to the grey of tiles that were stretched one by one: 0 to 255 between local minimum and maximum.

    Minimum and maximum are those of the live samples in windows of ``window``'s size, which lie inside the section,
    about a quarter of their size apart. A window with next to nothing live, or with no contrast, borrows those of
    the nearest. A section that is no larger than ``window`` is a single one: it comes out as a tile would.

    Args:
        amplitude: samples × traces.
        live: of the same shape, see :func:`live`; the others get the grey of a zero amplitude.
        window: samples and traces of a training tile.

    Returns:
        Samples × traces, 0 to 255.
    """
    rows, columns = (_starts(size, length) for size, length in zip(amplitude.shape, window, strict=True))
    low = _over_windows(np.where(live, amplitude, np.inf), np.minimum, rows, columns, window)
    high = _over_windows(np.where(live, amplitude, -np.inf), np.maximum, rows, columns, window)
    share = _over_windows(live.astype(np.float64), np.add, rows, columns, window)
    share /= min(window[0], amplitude.shape[0]) * min(window[1], amplitude.shape[1])
    seen = share > 0
    for wanted in (seen & (share >= SHARE) & (high > low), seen & (high > low), seen):
        if wanted.any():
            break
    else:
        return np.full(amplitude.shape, 128, np.uint8)
    nearest = tuple(ndimage.distance_transform_edt(~wanted, return_distances=False, return_indices=True))
    scale, shift = _line(low[nearest], high[nearest])
    centres = [s + (min(n, w) - 1) / 2 for s, n, w in zip((rows, columns), amplitude.shape, window, strict=True)]
    return _grey(amplitude, live, *(_between(values, centres, amplitude.shape) for values in (scale, shift)))


def stretch_between(amplitude: Float, live: Bool, low: float, high: float) -> Array8:
    """A section to grey by the same two bounds everywhere; arguments and result as in :func:`stretch`."""
    return _grey(amplitude, live, *_line(np.float64(low), np.float64(high)))


def _line(low: Any, high: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The straight line from amplitude to grey, as factor and summand; 0 where there is no contrast."""
    scale = np.where(high > low, 255 / np.where(high > low, high - low, 1), 0)
    return scale, np.where(high > low, -low * scale, 0)


def _grey(amplitude: Float, live: Bool, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Array8:
    # Four windows that all hold a sample don't take it beyond 0 … 255; borrowed ones may.
    return np.asarray(np.rint(np.clip(np.where(live, amplitude, 0) * scale + shift, 0, 255)), np.uint8)


def _starts(size: int, length: int) -> NDArray[np.int64]:
    """Where windows of ``length`` begin on an axis of ``size``: the first at 0, the last flush with the end."""
    if size <= length:
        return np.zeros(1, np.int64)
    stride = max(length // 4, 1)
    return np.rint(np.linspace(0, size - length, -(-(size - length) // stride) + 1)).astype(np.int64)


def _over_windows(
    values: NDArray[np.floating],
    reduce: np.ufunc,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    window: tuple[int, int],
) -> NDArray[np.float64]:
    """The least, greatest or sum of each window, one axis after the other."""
    by_row = np.stack([reduce.reduce(values[r : r + window[0]], axis=0) for r in rows])
    return np.stack([reduce.reduce(by_row[:, c : c + window[1]], axis=1) for c in columns], axis=1).astype(np.float64)


def _between(
    values: NDArray[np.float64], centres: list[NDArray[np.float64]], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Values at the windows' centres, interpolated bilinearly and held constant beyond the outermost."""
    places = [np.interp(np.arange(n), c, np.arange(len(c))) for n, c in zip(shape, centres, strict=True)]
    lower = [np.minimum(p.astype(np.int64), max(len(c) - 2, 0)) for p, c in zip(places, centres, strict=True)]
    upper = [np.minimum(k + 1, len(c) - 1) for k, c in zip(lower, centres, strict=True)]
    down, across = (p - k for p, k in zip(places, lower, strict=True))
    coarse = values[:, lower[1]] * (1 - across) + values[:, upper[1]] * across
    return np.asarray(coarse[lower[0]] * (1 - down)[:, None] + coarse[upper[0]] * down[:, None])
