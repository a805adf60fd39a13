"""A section of a survey with the probability of salt over it, as an interpreter is used to see it."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from saltseg.data.sampling import resample
from saltseg.pictures.style import save

Float = NDArray[np.float32]

#: Troughs red, peaks blue, both pale, so that what lies over them is seen.
AMPLITUDE = LinearSegmentedColormap.from_list("amplitude", ["#8E2B22", "#E3A79B", "#F7F6F4", "#9DB6D6", "#1F4479"])
#: Yellow is neither of them; from nothing to half opaque, for reflections inside salt are to be judged, too.
SALT = LinearSegmentedColormap.from_list("salt", [(1.0, 0.9, 0.35, 0.0), (1.0, 0.78, 0.0, 0.55)])
#: Where there is no probability.
NONE = ListedColormap(["#FFFFFF00", "#DCDCDC"])
_INK, _MUTED = "#222222", "#6B6B6B"
_MOST = 1600  # samples or traces of a picture
_NEAR = 151  # samples and traces


def draw_section(
    amplitude: Float,
    probability: Float,
    labels: NDArray[np.int32],
    path: Path,
    *,
    along: str,
    across: str,
    start: float,
    interval: float,
    domain: str,
    threshold: float,
) -> None:
    """Draw amplitudes from red to blue, over them the probability of salt, and a line where it is the threshold.

    The amplitudes are balanced for the eye, so that the deep and dark is seen, too.

    Args:
        amplitude: samples × traces.
        probability: of the same shape, in [0, 1]; NaN where there is none, which is grey.
        labels: numbers of the traces.
        path: the PNG to write.
        along: what the section is, the title.
        across: what the labels are: ``crossline``, ``inline``, ``CDP``.
        start: of the first sample, ms or m.
        interval: between samples, ms or m.
        domain: ``time`` or ``depth``.
        threshold: a sample is salt above it.
    """
    samples, traces = amplitude.shape
    shape = min(samples, _MOST), min(traces, _MOST)
    known = np.isfinite(probability)
    measured = resample(np.where(np.isfinite(amplitude), amplitude, 0), shape, "amplitude")
    salt = resample(np.where(known, probability, 0), shape, "probability")
    missing = ~resample(known, shape, "live")
    end = start + (samples - 1) * interval
    extent = (-0.5, traces - 0.5, end + interval / 2, start - interval / 2)

    width = float(np.clip(traces / samples * 5.2, 4.5, 12)) + 1.9
    figure = Figure(figsize=(width, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(_balanced(measured, ~missing), cmap=AMPLITUDE, vmin=-2, vmax=2, extent=extent, aspect="auto")
    image = axes.imshow(salt, cmap=SALT, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")
    x = np.linspace(0, traces - 1, shape[1]) if shape[1] > 1 else np.zeros(1)
    y = np.linspace(start, end, shape[0]) if shape[0] > 1 else np.full(1, start)
    if min(shape) > 1 and salt.min() < threshold < salt.max():
        axes.contour(x, y, salt, levels=[threshold], colors=[_INK], linewidths=1.1)
    axes.imshow(missing, cmap=NONE, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")

    def label(position: float, _: object = None) -> str:
        return str(labels[round(position)]) if 0 <= round(position) < traces else ""

    axes.xaxis.set_major_formatter(FuncFormatter(label))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=max(int(width), 4)))
    axes.xaxis.set_label_position("top")
    axes.tick_params(colors=_MUTED, labelsize=8, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.set_xlabel(across, fontsize=9, color=_INK)
    axes.set_ylabel("time (ms)" if domain == "time" else "depth (m)", fontsize=9, color=_INK)
    axes.set_title(along, fontsize=10, color=_INK, loc="left")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.015, aspect=30)
    bar.ax.axhline(threshold, color=_INK, lw=1.1)
    bar.set_label(f"probability of salt, line at {threshold:g}", fontsize=9, color=_INK)
    bar.ax.tick_params(colors=_MUTED, labelsize=8)
    save(figure, path)


def _balanced(amplitude: Float, live: NDArray[np.bool_]) -> Float:
    """Amplitudes over their root mean square nearby, among what is live."""
    power, share = (uniform_filter(v.astype(np.float64), _NEAR) for v in (np.where(live, amplitude, 0.0) ** 2, live))
    rms = np.sqrt(np.maximum(power, 0) / np.maximum(share, 1e-6))
    out = np.zeros(amplitude.shape, np.float32)
    np.divide(amplitude, rms, out=out, where=live & (rms > 0), casting="same_kind")
    return out
