"""Every picture of the project: what a run saw, how it learned, what it predicts.

One style throughout: seismic in grey, true salt in orange, predicted salt in blue (a pair that colour-blind readers
tell apart; Okabe & Ito, https://jfly.uni-koeln.de/color), pixels without a label striped. Figures are built without
pyplot, so that drawing in a training process or a thread touches no global state.
"""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from saltseg.data.images import IGNORE, Array8

Box = tuple[float, float, float, float]  # left, top, width, height in inches from the top left corner

_TRUTH, _PREDICTION = "#E69F00", "#56B4E9"
_BLUE, _GREEN, _PURPLE, _BROWN = "#0072B2", "#009E73", "#B0568F", "#8C5A00"
_INK, _MUTED, _FAINT = "#222222", "#6B6B6B", "#DDDDDD"
_SMALL, _NORMAL, _DPI = 7.5, 9.0, 110
_MARGIN, _GAP, _HEADER, _KEY_LINE = 0.15, 0.07, 0.3, 0.21  # inches
_OPAQUE = 0.5  # the overlay where the probability is 1
_DASHES = (0, (4, 3))


# --- tiles ----------------------------------------------------------------------------------------------------------


def samples(images: Sequence[Array8], masks: Sequence[Array8], titles: Sequence[str], path: Path) -> None:
    """Draw samples as pairs, the bare image beside its mask: the article's picture of random training samples.

    Args:
        images: N arrays H×W, uint8; sizes may differ.
        masks: N arrays of the same shapes: 0 background, 1 salt, 255 not labelled.
        titles: N captions (id, depth, coverage).
        path: the PNG to write.

    Raises:
        ValueError: if there are no images.
    """
    figure, axes, cells = _grid(len(images), columns=4, tile=1.28, pair=True, captions=titles)
    end = _key(axes, _MARGIN, "salt", _TRUTH)
    if any((mask == IGNORE).any() for mask in masks):
        _stripes(axes, (end, _KEY_LINE - 0.055, 0.2, 0.11), np.ones((11, 20), np.bool_))
        _key(axes, end, "not labelled", _MUTED, opaque=0)
    for image, mask, (left, right) in zip(images, masks, cells, strict=True):
        _tile(axes, left, image)
        _mask(axes, _tile(axes, right, image), mask)
    _save(figure, path)


def batch(images: Array8, masks: Array8, path: Path) -> None:
    """Draw an augmented batch as the network gets it, salt marked.

    Args:
        images: B×H×W, uint8; the first 32 are drawn.
        masks: B×H×W: 0 background, 1 salt, 255 not labelled.
        path: the PNG to write.

    Raises:
        ValueError: if the batch is empty.
    """
    _marked(list(images[:32]), list(masks[:32]), path, columns=8, tile=1.25)


def sheet(images: Sequence[Array8], masks: Sequence[Array8], path: Path) -> None:
    """Draw a contact sheet, twelve tiles a row, that shows a dataset at a glance; arguments as in :func:`samples`."""
    _marked(images, masks, path, columns=12, tile=0.86)


def predictions(
    images: Sequence[Array8],
    truths: Sequence[Array8],
    probabilities: Sequence[NDArray[np.floating]],
    titles: Sequence[str],
    path: Path,
    threshold: float,
) -> None:
    """Draw predictions as pairs: the bare image, and over it the probability of salt with both outlines.

    Args:
        images: N arrays H×W, uint8, in the order to show them (worst to best, say); sizes may differ.
        truths: N masks of the same shapes: 0 background, 1 salt, 255 not labelled.
        probabilities: N arrays of the same shapes, in [0, 1].
        titles: N captions (id, IoU).
        path: the PNG to write.
        threshold: a pixel is predicted salt where its probability is above this.

    Raises:
        ValueError: if there are no images.
    """
    figure, axes, cells = _grid(len(images), columns=4, tile=1.28, pair=True, captions=titles)
    end = _key(axes, _MARGIN, "true salt", _TRUTH, opaque=0)
    end = _key(axes, end, f"predicted salt (probability > {threshold:.2f})", _PREDICTION, opaque=0)
    _paint(axes, (end, _KEY_LINE - 0.055, 0.6, 0.11), _PREDICTION, np.linspace(0, _OPAQUE, 64)[None])
    _key(axes, end, "probability 0 to 1", _FAINT, width=0.6, opaque=0)
    for image, truth, probability, (left, right) in zip(images, truths, probabilities, cells, strict=True):
        _tile(axes, left, image)
        box = _tile(axes, right, image)
        _paint(axes, box, _PREDICTION, _OPAQUE * np.clip(probability, 0, 1))
        _stripes(axes, box, truth == IGNORE)
        _outline(axes, box, truth == 1, _TRUTH, width=2.4)  # the wider one below: where they coincide, both show
        _outline(axes, box, probability > threshold, _PREDICTION, width=1.2)
    _save(figure, path)


def versus(
    image: Array8 | None,
    truth: NDArray[np.bool_] | None,
    probabilities: Sequence[NDArray[np.floating]],
    thresholds: Sequence[float],
    tile: float = 1.7,
) -> bytes:
    """Draw one image and beside it, one after another, what several networks make of it.

    Args:
        image: H×W, uint8; None: not at hand, the predictions are drawn on grey.
        truth: H×W, true salt; None: not at hand.
        probabilities: K arrays H×W, in [0, 1].
        thresholds: K numbers; salt is predicted above them.
        tile: inches.

    Returns:
        A PNG.
    """
    amplitude = np.full(probabilities[0].shape, 200, np.uint8) if image is None else image
    tiles = len(probabilities) + (image is not None)
    width = tiles * tile + (tiles - 1) * 0.04
    figure = Figure(figsize=(width, tile))
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[], autoscale_on=False)
    axes.set(xlim=(0, width), ylim=(tile, 0))
    cells: list[Box] = [(k * (tile + 0.04), 0.0, tile, tile) for k in range(tiles)]
    boxes = [_tile(axes, cell, amplitude) for cell in cells][-len(probabilities) :]
    for box, probability, threshold in zip(boxes, probabilities, thresholds, strict=True):
        _paint(axes, box, _PREDICTION, _OPAQUE * np.clip(probability, 0, 1))
        if truth is not None:
            _outline(axes, box, truth, _TRUTH, width=2.4)
        _outline(axes, box, probability > threshold, _PREDICTION, width=1.2)
    drawn = BytesIO()
    _picture(figure).save(drawn, format="png", optimize=True)
    return drawn.getvalue()


def _marked(images: Sequence[Array8], masks: Sequence[Array8], path: Path, columns: int, tile: float) -> None:
    figure, axes, cells = _grid(len(images), columns, tile)
    for image, mask, (cell,) in zip(images, masks, cells, strict=True):
        _mask(axes, _tile(axes, cell, image), mask)
    _save(figure, path)


def _grid(
    count: int, columns: int, tile: float, pair: bool = False, captions: Sequence[str] = ()
) -> tuple[Figure, Axes, list[tuple[Box, ...]]]:
    """A figure with one Axes measured in inches, captions written, and where the tiles of ``count`` cells go.

    One Axes for all tiles draws many times faster than one per tile, and every gap is where we put it.
    """
    if not count:
        raise ValueError("there are no images to draw")
    columns = min(columns, count)
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    top, above = (_MARGIN + _HEADER, 0.05 + 0.125 * lines) if captions else (_MARGIN, 0.0)
    width, gap = (2 * tile + 0.03, 2.5 * _GAP) if pair else (tile, _GAP)
    step_x, step_y = width + gap, tile + above + _GAP
    total_x = max(2 * _MARGIN + columns * step_x - gap, 6.2 if captions else 0.0)  # room for the key
    total_y = top + -(-count // columns) * step_y - _GAP + _MARGIN
    figure = Figure(figsize=(total_x, total_y))
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[], autoscale_on=False)
    axes.set(xlim=(0, total_x), ylim=(total_y, 0))
    cells: list[tuple[Box, ...]] = []
    for i in range(count):
        x, y = _MARGIN + i % columns * step_x, top + i // columns * step_y + above
        cells.append(tuple((x + k * (tile + 0.03), y, tile, tile) for k in range(1 + pair)))
        if captions:
            text = "\n".join(_shorten(line, int(width / 0.062)) for line in captions[i].split("\n"))
            axes.text(x, y - 0.035, text, fontsize=_SMALL, color=_INK, va="bottom", linespacing=1.15, parse_math=False)
    return figure, axes, cells


def _shorten(line: str, most: int) -> str:
    """Cut the middle out of a long line: names are told apart at both ends, and the score stands last."""
    return line if len(line) <= most else f"{line[: most // 2]}…{line[len(line) - (most - most // 2 - 1) :]}"


def _tile(axes: Axes, cell: Box, image: Array8) -> Box:
    """Draw a grey image as large as its cell lets it be, centred; returns where it lies."""
    left, top, width, height = cell
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = image.shape[1] * scale, image.shape[0] * scale
    box = (left + (width - w) / 2, top + (height - h) / 2, w, h)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=_extent(box), aspect="auto")
    return box


def _mask(axes: Axes, box: Box, mask: Array8) -> None:
    _paint(axes, box, _TRUTH, 0.28 * (mask == 1))
    _stripes(axes, box, mask == IGNORE)
    _outline(axes, box, mask == 1, _TRUTH)


def _paint(axes: Axes, box: Box, colour: str, alpha: NDArray[np.floating]) -> None:
    rgba = np.empty((*alpha.shape, 4), np.float32)
    rgba[..., :3], rgba[..., 3] = to_rgb(colour), alpha
    axes.imshow(rgba, extent=_extent(box), aspect="auto", interpolation="nearest")


def _stripes(axes: Axes, box: Box, where: NDArray[np.bool_]) -> None:
    if where.any():
        diagonal = np.add.outer(np.arange(where.shape[0]), np.arange(where.shape[1]))
        dark = diagonal // max(max(where.shape) // 20, 2) % 2 == 0
        _paint(axes, box, "white", 0.65 * (where & ~dark))
        _paint(axes, box, _MUTED, 0.80 * (where & dark))


def _outline(axes: Axes, box: Box, where: NDArray[np.bool_], colour: str, width: float = 1.3) -> None:
    """Line around ``where``; closed along the image's edge, so that a full mask has an outline too."""
    if where.any():
        left, top, w, h = box
        rows, columns = where.shape
        x = left + (np.arange(-1, columns + 1) + 0.5) * w / columns
        y = top + (np.arange(-1, rows + 1) + 0.5) * h / rows
        lines = axes.contour(x, y, np.pad(where, 1).astype(float), levels=[0.5], colors=[colour], linewidths=width)
        lines.set_path_effects([withStroke(linewidth=width + 0.7, foreground=(0.0, 0.0, 0.0, 0.5))])


def _extent(box: Box) -> Box:
    left, top, width, height = box
    return left, left + width, top + height, top


def _key(axes: Axes, x: float, label: str, colour: str, width: float = 0.2, opaque: float = 0.28) -> float:
    """Write one entry of the key into the header line; returns where the next one may start."""
    face, corner = (*to_rgb(colour), opaque), (x, _KEY_LINE - 0.055)
    axes.add_patch(Rectangle(corner, width, 0.11, facecolor=face, edgecolor=colour, lw=1.3))
    axes.text(x + width + 0.08, _KEY_LINE, label, fontsize=_NORMAL, color=_INK, va="center_baseline")
    return x + width + 0.3 + 0.068 * len(label)


# --- curves ---------------------------------------------------------------------------------------------------------


def phase_starts(history: pd.DataFrame) -> list[tuple[int, str]]:
    """The first epoch of each phase of the loss schedule, and the name of the loss, in order."""
    starts = history[history["loss_name"].ne(history["loss_name"].shift())]
    return [(int(epoch), str(name)) for epoch, name in zip(starts["epoch"], starts["loss_name"], strict=True)]


def curves(history: pd.DataFrame, path: Path) -> None:
    """Draw a run's learning curves: loss, validation scores and, if it varies, the learning rate.

    Args:
        history: the rows of ``history.csv``, one per epoch.
        path: the PNG to write.

    Raises:
        ValueError: if the history has no row.
    """
    if history.empty:
        raise ValueError("the history has no epoch to draw")
    heights = [2.3, 3.0] + ([0.9] if history["lr"].min() < history["lr"].max() else [])
    figure = Figure(figsize=(9.0, sum(heights) + 1.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    phase = history["loss_name"].ne(history["loss_name"].shift()).cumsum()  # two losses' values don't compare
    losses = {"train/loss": ("training", _MUTED), "val/loss": ("validation", _BLUE)}
    scores = {"val/dice": ("Dice", _GREEN), "val/iou": ("IoU", _BLUE), "val/map": ("mAP", _PURPLE)}
    _lines(panels[0], history, "epoch", losses, "loss", heights[0], phase)
    _lines(panels[1], history, "epoch", scores, "validation score", heights[1])
    if len(panels) > 2:
        _lines(panels[2], history, "epoch", {"lr": ("", _MUTED)}, "learning rate", heights[2])
        panels[2].ticklabel_format(axis="y", scilimits=(-2, 2))
        panels[2].yaxis.get_offset_text().set(fontsize=_SMALL, color=_MUTED)
    panels[-1].set_xlabel("epoch", fontsize=_NORMAL, color=_INK)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[-1].set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    _mark_phases(panels, history)
    scored = history.dropna(subset="val/iou")
    if len(scored):
        epoch, iou = scored[["epoch", "val/iou"]].to_numpy()[scored["val/iou"].argmax()]
        late = bool(epoch > history["epoch"].mean())
        _mark(panels[1], epoch, iou, f"best IoU {iou:.3f} at epoch {epoch:.0f}", to_the_left=late)
    _save(figure, path)


def thresholds(curve: pd.DataFrame, path: Path, threshold: float, best: float) -> None:
    """Draw validation scores against the threshold, the one in use and the best one marked with their IoU.

    Args:
        curve: the rows of ``thresholds.csv``.
        path: the PNG to write.
        threshold: the threshold in use.
        best: the threshold that maximises the validation IoU.
    """
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    scores = {"dice": ("Dice", _GREEN), "micro_iou": ("micro IoU", _BROWN), "iou": ("IoU", _BLUE)}
    pixels = {"precision": ("precision", _INK), "recall": ("recall", _MUTED)}
    _lines(left, curve, "threshold", {**scores, "map": ("mAP", _PURPLE)}, "score on validation", 3.5)
    _lines(right, curve, "threshold", pixels, "precision and recall of salt pixels", 3.5)
    for axes in (left, right):
        axes.set_xlabel("threshold", fontsize=_NORMAL, color=_INK)
        axes.set_xlim(0, 1)
    for name, x in [("in use and best", best)] if threshold == best else [("in use", threshold), ("best", best)]:
        iou = float(np.interp(x, curve["threshold"], curve["iou"]))
        _mark(left, x, iou, f"{name} {x:.2f}: IoU {iou:.3f}", to_the_left=x < max(threshold, best))
        right.axvline(x, color=_INK, lw=0.9, ls=_DASHES, zorder=1)
    _save(figure, path)


def _lines(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    columns: dict[str, tuple[str, str]],
    ylabel: str,
    inches: float,
    parts: pd.Series | None = None,
) -> None:
    """Plot ``columns``, each named at its right end in its colour; no line joins the stretches that ``parts`` numbers.

    The names are pushed apart where they would overlap, for which it must know how many ``inches`` the panel is high.
    """
    ends: list[tuple[float, str, str]] = []
    for column, (label, colour) in columns.items():
        for _, part in table.groupby(parts) if parts is not None else [(0, table)]:
            axes.plot(part[x], part[column], color=colour, lw=1.6, marker="o", ms=2.8, zorder=3)
        known = table[column].dropna()
        if label and len(known):
            ends.append((float(known.iloc[-1]), label, colour))
    low, high = axes.get_ylim()
    y = -np.inf
    for value, label, colour in sorted(ends):
        y = max(value, y + 1.3 * _NORMAL * (high - low) / (72 * inches))
        _note(axes, label, (1, y), ("axes fraction", "data"), (5, 0), va="center", color=colour)
    axes.set_ylabel(ylabel, fontsize=_NORMAL, color=_INK)
    axes.grid(color=_FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, labelsize=_SMALL + 0.5, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)


def _mark(axes: Axes, x: float, y: float, label: str, to_the_left: bool) -> None:
    """Ring a point, drop a line through it and write about it above the panel."""
    axes.axvline(x, color=_INK, lw=0.9, ls=_DASHES, zorder=1)
    axes.plot(x, y, "o", ms=7.5, mfc="none", mec=_INK, mew=1.3, zorder=5)
    _note(axes, label, (x, 1), ("data", "axes fraction"), (0, 4), ha="right" if to_the_left else "left")


def _mark_phases(panels: Sequence[Axes], history: pd.DataFrame) -> None:
    """Draw a line through all panels where the loss changes; the names above the first, in rows where they are long."""
    first, inch = history["epoch"].iloc[0], len(history) / 8
    row_ends: list[float] = []
    for start, name in phase_starts(history):
        x, label = start - 0.5, name if start == first else f"{name} from epoch {start}"
        row = next((i for i, end in enumerate(row_ends) if end <= x), len(row_ends))
        row_ends[row : row + 1] = [x + (0.08 * len(label) + 0.1) * inch]
        _note(panels[0], label, (x, 1), ("data", "axes fraction"), (0, 4 + 12 * row))
        for axes in panels if start > first else []:
            axes.axvline(x, color=_INK, lw=1.2, zorder=1)


def _note(
    axes: Axes, text: str, at: tuple[float, float], frame: tuple[str, str], points: tuple[float, float], **style: Any
) -> None:
    """Write ``text`` some ``points`` away from ``at``, also outside of the panel."""
    style = {"fontsize": _NORMAL, "color": _INK, **style}
    axes.annotate(text, at, xycoords=frame, xytext=points, textcoords="offset points", annotation_clip=False, **style)


# --- file -----------------------------------------------------------------------------------------------------------


def _picture(figure: Figure) -> Image.Image:
    """What is drawn, in steps of 5 of 255 levels, which halves the file and which no eye sees."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    return Image.open(drawn).convert("RGB").point([5 * round(level / 5) for level in range(256)] * 3)


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all."""
    picture = _picture(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        picture.save(unfinished, format="png")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
