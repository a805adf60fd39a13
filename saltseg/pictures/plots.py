"""Charts of a run: how it learned, and what its scores and probabilities depend on; style as in :mod:`.style`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from saltseg.calibration import Counts, expected_calibration_error
from saltseg.calibration import reliability as binned
from saltseg.pictures.style import BLUE, BROWN, DASHES, FAINT, GREEN, INK, MUTED, NORMAL, PURPLE, SMALL, save
from saltseg.retention import KEPT

_INSIDE = ("axes fraction", "axes fraction")


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
    losses = {"train/loss": ("training", MUTED), "val/loss": ("validation", BLUE)}
    scores = {"val/dice": ("Dice", GREEN), "val/iou": ("IoU", BLUE), "val/map": ("mAP", PURPLE)}
    _lines(panels[0], history, "epoch", losses, "loss", heights[0], phase)
    _lines(panels[1], history, "epoch", scores, "validation score", heights[1])
    if len(panels) > 2:
        _lines(panels[2], history, "epoch", {"lr": ("", MUTED)}, "learning rate", heights[2])
        panels[2].ticklabel_format(axis="y", scilimits=(-2, 2))
        panels[2].yaxis.get_offset_text().set(fontsize=SMALL, color=MUTED)
    panels[-1].set_xlabel("epoch", fontsize=NORMAL, color=INK)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[-1].set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    _mark_phases(panels, history)
    scored = history.dropna(subset="val/iou")
    if len(scored):
        epoch, iou = scored[["epoch", "val/iou"]].to_numpy()[scored["val/iou"].argmax()]
        late = bool(epoch > history["epoch"].mean())
        _mark(panels[1], epoch, iou, f"best IoU {iou:.3f} at epoch {epoch:.0f}", to_the_left=late)
    save(figure, path)


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
    scores = {"dice": ("Dice", GREEN), "micro_iou": ("micro IoU", BROWN), "iou": ("IoU", BLUE)}
    pixels = {"precision": ("precision", INK), "recall": ("recall", MUTED)}
    _lines(left, curve, "threshold", {**scores, "map": ("mAP", PURPLE)}, "score on validation", 3.5)
    _lines(right, curve, "threshold", pixels, "precision and recall of salt pixels", 3.5)
    for axes in (left, right):
        axes.set_xlabel("threshold", fontsize=NORMAL, color=INK)
        axes.set_xlim(0, 1)
    for name, x in [("in use and best", best)] if threshold == best else [("in use", threshold), ("best", best)]:
        iou = float(np.interp(x, curve["threshold"], curve["iou"]))
        _mark(left, x, iou, f"{name} {x:.2f}: IoU {iou:.3f}", to_the_left=x < max(threshold, best))
        right.axvline(x, color=INK, lw=0.9, ls=DASHES, zorder=1)
    save(figure, path)


def reliability(before: Counts, after: Counts | None, temperature: float | None, shown: str, path: Path) -> None:
    """Draw whether of pixels called 70% salt 70% are salt, before and after temperature scaling.

    Args:
        before: 2×256 pixels by truth and probability, see :mod:`saltseg.calibration`.
        after: the same of the tempered probabilities; None: no temperature is known.
        temperature: what it is.
        shown: whose pixels they are.
        path: the PNG to write.
    """
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    left.plot([0, 1], [0, 1], color=INK, lw=0.9, ls=DASHES, zorder=1)
    series = [(before, "untempered", MUTED)] + ([] if after is None else [(after, "tempered", BLUE)])
    for k, (counts, name, colour) in enumerate(series):
        table = binned(counts)
        left.plot(table["confidence"], table["salt"], color=colour, lw=1.6, marker="o", ms=3.5, zorder=3)
        right.plot(
            table["confidence"], table["pixels"] / table["pixels"].sum(), color=colour, lw=1.6, marker="o", ms=3.5
        )
        error = expected_calibration_error(counts)
        _note(left, f"{name}: calibration error {error:.4f}", (0, 1), _INSIDE, (0, 18 - 13 * k), color=colour)
    _framed(left, "share of pixels that are salt")
    _framed(right, "share of pixels with such a probability")
    left.set(xlim=(0, 1), ylim=(0, 1))
    right.set(xlim=(0, 1), yscale="log")
    for axes in (left, right):
        axes.set_xlabel("probability of salt", fontsize=NORMAL, color=INK)
    fitted = "no temperature known" if temperature is None else f"temperature {temperature:.2f}, fitted on validation"
    title = f"All labelled pixels of {shown}; {fitted}; dashed: probabilities that are what they say"
    figure.suptitle(title, fontsize=NORMAL, color=INK, x=0.01, ha="left")
    save(figure, path)


def retention(kept: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draw the mean IoU of the images that are left when the most uncertain ones are dropped; a panel for each table.

    Args:
        kept: titles and rows of :func:`saltseg.retention.curves`.
        path: the PNG to write.
    """
    names = {
        "uncertainty": ("most uncertain", BLUE),
        "disagreement": ("most disputed", PURPLE),
        "boundary": ("longest boundary", BROWN),
        "least_salt": ("least salt", GREEN),
        "perfect": ("lowest IoU", MUTED),
    }
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(kept), squeeze=False)[0], kept.items(), strict=True):
        _lines(axes, table, "dropped", {n: v for n, v in names.items() if n in table}, "mean IoU of the rest", 3.2)
        axes.set_xlabel("share of images dropped", fontsize=NORMAL, color=INK)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.axvline(1 - KEPT, color=INK, lw=0.9, ls=DASHES, zorder=1)
        whole, without = table["uncertainty"][np.isclose(table["dropped"], 0) | np.isclose(table["dropped"], 1 - KEPT)]
        text = f"{title}\nIoU {whole:.3f}, without the unsure fifth {without:.3f}"
        _note(axes, text, (0, 1), _INSIDE, (0, 6))
    save(figure, path)


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
        y = max(value, y + 1.3 * NORMAL * (high - low) / (72 * inches))
        _note(axes, label, (1, y), ("axes fraction", "data"), (5, 0), va="center", color=colour)
    _framed(axes, ylabel)


def _framed(axes: Axes, ylabel: str) -> None:
    axes.set_ylabel(ylabel, fontsize=NORMAL, color=INK)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=SMALL + 0.5, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _mark(axes: Axes, x: float, y: float, label: str, to_the_left: bool) -> None:
    """Ring a point, drop a line through it and write about it above the panel."""
    axes.axvline(x, color=INK, lw=0.9, ls=DASHES, zorder=1)
    axes.plot(x, y, "o", ms=7.5, mfc="none", mec=INK, mew=1.3, zorder=5)
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
            axes.axvline(x, color=INK, lw=1.2, zorder=1)


def _note(
    axes: Axes, text: str, at: tuple[float, float], frame: tuple[str, str], points: tuple[float, float], **style: Any
) -> None:
    """Write ``text`` some ``points`` away from ``at``, also outside of the panel."""
    style = {"fontsize": NORMAL, "color": INK, **style}
    axes.annotate(text, at, xycoords=frame, xytext=points, textcoords="offset points", annotation_clip=False, **style)
