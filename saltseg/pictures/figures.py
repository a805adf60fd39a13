"""Pictures of images: what a run saw, what it predicts; see :mod:`saltseg.pictures.style`."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from saltseg.data.images import IGNORE, Array8
from saltseg.pictures.style import FAINT, INK, MUTED, NORMAL, PREDICTION, SMALL, TRUTH, picture, save

Box = tuple[float, float, float, float]  # left, top, width, height in inches from the top left corner

_MARGIN, _GAP, _HEADER, _KEY_LINE = 0.15, 0.07, 0.3, 0.21  # inches
_OPAQUE = 0.5  # the overlay where the probability is 1


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
    end = _key(axes, _MARGIN, "salt", TRUTH)
    if any((mask == IGNORE).any() for mask in masks):
        _stripes(axes, (end, _KEY_LINE - 0.055, 0.2, 0.11), np.ones((11, 20), np.bool_))
        _key(axes, end, "not labelled", MUTED, opaque=0)
    for image, mask, (left, right) in zip(images, masks, cells, strict=True):
        _tile(axes, left, image)
        _mask(axes, _tile(axes, right, image), mask)
    save(figure, path)


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
    end = _key(axes, _MARGIN, "true salt", TRUTH, opaque=0)
    end = _key(axes, end, f"predicted salt (probability > {threshold:.2f})", PREDICTION, opaque=0)
    _paint(axes, (end, _KEY_LINE - 0.055, 0.6, 0.11), PREDICTION, np.linspace(0, _OPAQUE, 64)[None])
    _key(axes, end, "probability 0 to 1", FAINT, width=0.6, opaque=0)
    for image, truth, probability, (left, right) in zip(images, truths, probabilities, cells, strict=True):
        _tile(axes, left, image)
        box = _tile(axes, right, image)
        _paint(axes, box, PREDICTION, _OPAQUE * np.clip(probability, 0, 1))
        _stripes(axes, box, truth == IGNORE)
        _outline(axes, box, truth == 1, TRUTH, width=2.4)  # the wider one below: where they coincide, both show
        _outline(axes, box, probability > threshold, PREDICTION, width=1.2)
    save(figure, path)


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
        _paint(axes, box, PREDICTION, _OPAQUE * np.clip(probability, 0, 1))
        if truth is not None:
            _outline(axes, box, truth, TRUTH, width=2.4)
        _outline(axes, box, probability > threshold, PREDICTION, width=1.2)
    drawn = BytesIO()
    picture(figure).save(drawn, format="png", optimize=True)
    return drawn.getvalue()


def _marked(images: Sequence[Array8], masks: Sequence[Array8], path: Path, columns: int, tile: float) -> None:
    figure, axes, cells = _grid(len(images), columns, tile)
    for image, mask, (cell,) in zip(images, masks, cells, strict=True):
        _mask(axes, _tile(axes, cell, image), mask)
    save(figure, path)


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
            axes.text(x, y - 0.035, text, fontsize=SMALL, color=INK, va="bottom", linespacing=1.15, parse_math=False)
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
    _paint(axes, box, TRUTH, 0.28 * (mask == 1))
    _stripes(axes, box, mask == IGNORE)
    _outline(axes, box, mask == 1, TRUTH)


def _paint(axes: Axes, box: Box, colour: str, alpha: NDArray[np.floating]) -> None:
    rgba = np.empty((*alpha.shape, 4), np.float32)
    rgba[..., :3], rgba[..., 3] = to_rgb(colour), alpha
    axes.imshow(rgba, extent=_extent(box), aspect="auto", interpolation="nearest")


def _stripes(axes: Axes, box: Box, where: NDArray[np.bool_]) -> None:
    if where.any():
        diagonal = np.add.outer(np.arange(where.shape[0]), np.arange(where.shape[1]))
        dark = diagonal // max(max(where.shape) // 20, 2) % 2 == 0
        _paint(axes, box, "white", 0.65 * (where & ~dark))
        _paint(axes, box, MUTED, 0.80 * (where & dark))


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
    axes.text(x + width + 0.08, _KEY_LINE, label, fontsize=NORMAL, color=INK, va="center_baseline")
    return x + width + 0.3 + 0.068 * len(label)
