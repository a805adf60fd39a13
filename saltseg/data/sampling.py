"""How finely images are sampled for what they show, and the resampling that brings a survey to what a network knows.

The measure is the median frequency: half of an image's power lies below it. Vertically that is the wavelet's, in cycles
per sample; horizontally it is the structure's, in cycles per trace.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from torch.nn import functional

from saltseg.data.images import Array8
from saltseg.errors import SaltsegError

log = logging.getLogger(__name__)

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
#: Sections of a survey, one after the other, each with what is live of it; asked for more than once.
Sections = Callable[[], Iterable[tuple[Float, Bool]]]

#: The axes of an image, and by how much a survey's median frequency may differ before it is resampled. Vertically a
#: network is as sensitive as that; horizontally geology alone, flat or steep, makes a factor of two.
TOLERANCE = {"vertical": 1.25, "horizontal": 2.0}

#: Samples for one: more than this in either direction would invent them, or throw them away.
LIMIT = 4.0

#: Patches of a section are enough to know its median frequency.
PATCHES = 64


def frequencies(images: NDArray[Any], axis: int, shares: Sequence[float] = (0.5,)) -> NDArray[np.float64]:
    """Frequencies below which these shares of an image's power lie.

    The lines' mean is taken off and their power spectra are averaged over the image.

    Args:
        images: N×H×W.
        axis: 1 vertical, 2 horizontal.
        shares: K numbers in (0, 1); 0.5 gives the median frequency.

    Returns:
        K×N, in cycles per sample (0 to 0.5); NaN for an image that doesn't vary along ``axis``.
    """
    lines = images - images.mean(axis, keepdims=True, dtype=np.float64)
    size = max(512, fft.next_fast_len(images.shape[axis], real=True))
    power = (np.abs(fft.rfft(lines, size, axis=axis)) ** 2).mean(3 - axis)
    grid = fft.rfftfreq(size)
    total = power.sum(1)
    # What a mean leaves of a constant by rounding is no power.
    lively = np.abs(lines).max((1, 2)) > 1e-6 * np.abs(images).max((1, 2))
    below = np.cumsum(power, 1) / np.where(lively, total, np.nan)[:, None]
    return np.array([[np.interp(share, line, grid) for line in below] for share in shares])


@dataclass(frozen=True)
class Grain:
    """The median frequencies of a run's training images: their 5%, 50% and 95% quantiles along each axis."""

    vertical: tuple[float, float, float]
    horizontal: tuple[float, float, float]

    @classmethod
    def measure(cls, images: Sequence[Array8], count: int = 1000) -> "Grain":
        """Of at most ``count`` images, spread evenly over those given; NaN where no image varies."""
        picked = [images[k] for k in np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))]
        return cls(*(_quantiles(picked, axis) for axis in (1, 2)))

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> "Grain | None":
        """What a run's ``metrics.json`` has of it; None: nothing."""
        keys = cls((0, 0, 0), (0, 0, 0)).flat()
        if any(metrics.get(key) is None for key in keys):
            return None
        values = [float(metrics[key]) for key in keys]
        return cls((values[0], values[1], values[2]), (values[3], values[4], values[5]))

    def flat(self) -> dict[str, float]:
        """``grain/vertical_05`` … ``grain/horizontal_95``, for ``metrics.json``."""
        axes = {"vertical": self.vertical, "horizontal": self.horizontal}
        return {f"grain/{axis}_{q}": v for axis, values in axes.items() for q, v in zip(_NAMES, values, strict=True)}


_NAMES = ("05", "50", "95")


def _quantiles(images: Sequence[Array8], axis: int) -> tuple[float, float, float]:
    found = np.array([frequencies(image[None], axis)[0, 0] for image in images])
    found = found[np.isfinite(found)]
    low, middle, high = np.percentile(found, [5, 50, 95]) if len(found) else [np.nan] * 3
    return float(low), float(middle), float(high)


def survey_frequency(sections: Sections, window: tuple[int, int], factors: tuple[float, float]) -> tuple[float, float]:
    """The medians of the vertical and the horizontal median frequency of patches that become tiles.

    Args:
        sections: samples × traces, each.
        window: samples and traces of a training tile, after resampling.
        factors: of the resampling: new samples for each old one, vertically and horizontally.

    Returns:
        Cycles per new sample and per new trace; NaN where nothing is live.
    """
    found = [
        [float(frequencies(patch[None], axis)[0, 0]) for axis in (1, 2)]
        for amplitude, live in sections()
        for patch in _patches(amplitude, live, window, factors)
    ]
    if not found:
        return np.nan, np.nan
    vertical, horizontal = np.nanmedian(np.array(found), axis=0)
    return float(vertical), float(horizontal)


def _patches(amplitude: Float, live: Bool, window: tuple[int, int], factors: tuple[float, float]) -> Iterator[Float]:
    """Parts of a section that are live but for a tenth, each resampled to a tile's size."""
    sizes = [min(n, max(round(w / f), 1)) for n, w, f in zip(amplitude.shape, window, factors, strict=True)]
    rows, columns = (range(0, n - s + 1, s) for n, s in zip(amplitude.shape, sizes, strict=True))
    places = [(slice(r, r + sizes[0]), slice(c, c + sizes[1])) for r in rows for c in columns]
    lively = [place for place in places if live[place].mean() > 0.9]
    for k in np.unique(np.linspace(0, len(lively) - 1, min(PATCHES, len(lively))).astype(int)):
        place = lively[k]
        values = np.where(live[place], amplitude[place], 0).astype(np.float32)
        yield resample(values, resampled_shape(values.shape, factors), "amplitude")


def choose_factors(sections: Sections, grain: Grain, window: tuple[int, int]) -> tuple[float, float]:
    """What ``segy.resample=auto`` means for a survey: new samples for each old one, vertically and horizontally.

    An axis whose median frequency is within :data:`TOLERANCE` of the training images' median stays as it is. Any other
    is brought to that median, within :data:`LIMIT`; and since both axes are, so is their ratio, the aspect. It warns
    when the survey still isn't within 5% to 95% of what the network has learned from.

    Args:
        sections: some of the survey's, samples × traces.
        grain: of the run's training images.
        window: samples and traces of a training tile.
    """
    axes = {"vertical": grain.vertical, "horizontal": grain.horizontal}
    factors = [1.0, 1.0]
    wanted = [False, False]
    for attempt in range(3):  # a tile that shows another length of the survey has a slightly different median
        measured = survey_frequency(sections, window, (factors[0], factors[1]))
        for k, (name, (_, target, _)) in enumerate(axes.items()):
            off = measured[k] / target
            if attempt == 0:
                wanted[k] = bool(max(off, 1 / off) > TOLERANCE[name]) if np.isfinite(off) and off > 0 else False
            if wanted[k]:
                factors[k] = float(np.clip(factors[k] * off, 1 / LIMIT, LIMIT))
        if not any(wanted):
            break
    chosen = (round(factors[0], 3), round(factors[1], 3))
    for (name, (low, _, high)), value in zip(axes.items(), survey_frequency(sections, window, chosen), strict=True):
        if not low <= value <= high:
            unit = "sample" if name == "vertical" else "trace"
            log.warning(
                "The survey's median %s frequency is %.3f cycles/%s after resampling; 90%% of the training images lie "
                "within %.3f … %.3f. The network has seen nothing like it: judge its result with care.",
                name,
                value,
                unit,
                low,
                high,
            )
    return chosen


def check_factors(value: Any) -> tuple[float, float]:
    """Explicit factors ``[vertical, horizontal]``.

    Raises:
        SaltsegError: if they are none.
    """
    try:
        vertical, horizontal = (float(v) for v in value)
    except (TypeError, ValueError):
        vertical = horizontal = np.nan
    if not all(1 / 16 <= v <= 16 for v in (vertical, horizontal)):
        raise SaltsegError(
            f"segy.resample={value}: expected auto, none, or two factors of at most 16 (or at least 1/16): "
            "[vertical, horizontal], new samples for each old one."
        )
    return vertical, horizontal


def resampled_shape(shape: tuple[int, ...], factors: tuple[float, float]) -> tuple[int, int]:
    """Samples and traces of a section after resampling."""
    return max(round(shape[0] * factors[0]), 1), max(round(shape[1] * factors[1]), 1)


def resample(values: NDArray[Any], shape: tuple[int, int], what: Literal["amplitude", "probability", "live"]) -> Any:
    """A section brought to ``shape`` and, by the same call with the old shape, back.

    PyTorch's interpolation takes any size (a polyphase filter takes ratios of small integers), its samples stand for
    pixels of equal size, so that going forth and back shifts nothing, and where it thins out it averages first.

    Args:
        values: samples × traces.
        shape: what it is to be.
        what: ``amplitude``: bicubic; ``probability``: bilinear, which doesn't leave [0, 1]; ``live``: the nearest.
    """
    if values.shape == shape:
        return values
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    if what == "live":
        return functional.interpolate(tensor, shape, mode="nearest-exact")[0, 0].numpy() > 0.5
    mode = "bicubic" if what == "amplitude" else "bilinear"
    return functional.interpolate(tensor, shape, mode=mode, align_corners=False, antialias=True)[0, 0].numpy()
