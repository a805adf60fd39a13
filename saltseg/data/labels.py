"""What an interpreter says of the lines of a survey: a mask volume in SEG-Y, or polygons in a CSV.

Both speak of some lines only; a line of which they say nothing is not background, it is not labelled.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saltseg.data.images import IGNORE, Array8
from saltseg.data.segy import Direction, Section, Segy
from saltseg.errors import SaltsegError, near_miss

COLUMNS = ("inline", "crossline", "body")
VERTICAL = ("time", "depth")

#: Fractions of a pixel in which OpenCV takes vertices: 1/256.
SHIFT = 8


class Labels(ABC):
    """Labels of lines of a survey.

    Args:
        path: of the file.
        survey: the amplitudes that they belong to.
        direction: of the lines.
    """

    def __init__(self, path: Path, survey: Segy, direction: Direction) -> None:
        self.path, self.survey, self.direction = path, survey, direction
        strangers = sorted(set(self.numbers) - set(survey.numbers(direction)))
        if strangers:
            known = survey.numbers(direction)
            raise SaltsegError(
                f"data.labels: {path} labels {direction} {', '.join(map(str, strangers[:5]))}, but {survey.path} has "
                f"the {direction}s {known[0]} to {known[-1]}. Is data.direction right, and are these line numbers?"
            )

    @property
    @abstractmethod
    def numbers(self) -> list[int]:
        """The lines that something is said of, rising."""

    @abstractmethod
    def mask(self, number: int, section: Section) -> Array8:
        """Samples × traces of a line: 0 background, 1 salt, :data:`~saltseg.data.images.IGNORE` not labelled.

        Raises:
            SaltsegError: if the labels don't fit the line.
        """


@contextmanager
def open_labels(path: Path, survey: Segy, direction: Direction, ignore_value: float | None) -> Iterator[Labels]:
    """Polygons from a ``.csv``, a mask volume from anything else.

    Raises:
        SaltsegError: if the file can't be read or is of another survey.
    """
    if path.suffix.lower() == ".csv":
        yield Polygons(path, survey, direction)
        return
    with Segy.open(path, survey.keys) as volume:
        yield MaskVolume(volume, survey, direction, ignore_value)


class MaskVolume(Labels):
    """A SEG-Y with the samples of ``survey``: 0 is background, ``ignore_value`` and NaN not labelled, all else salt.

    It may lack lines and traces of the survey: those are not labelled.

    Raises:
        SaltsegError: if it is of another geometry.
    """

    def __init__(self, volume: Segy, survey: Segy, direction: Direction, ignore_value: float | None) -> None:
        self.volume, self.ignore_value = volume, ignore_value
        ours, theirs = ((s.samples, s.interval, s.start) for s in (survey, volume))
        if not np.allclose(ours, theirs) or not volume.is_cube:
            shapes = [
                f"{s.samples} samples at {s.interval:g} from {s.start:g}, {len(s.numbers('inline'))} inlines"
                for s in (survey, volume)
            ]
            raise SaltsegError(
                f"data.labels: {volume.path} has {shapes[1]}; {survey.path} has {shapes[0]}. A mask volume must have "
                "the geometry of the amplitudes."
            )
        super().__init__(volume.path, survey, direction)

    @property
    def numbers(self) -> list[int]:
        return self.volume.numbers(self.direction)

    def mask(self, number: int, section: Section) -> Array8:
        mask = np.full(section.amplitude.shape, IGNORE, np.uint8)
        if number not in self.numbers:
            return mask
        labelled = self.volume.section(self.direction, number)
        if strangers := sorted(set(labelled.across.tolist()) - set(section.across.tolist())):
            raise SaltsegError(
                f"data.labels: {self.path}, {self.direction} {number} has a trace {strangers[0]}, which the amplitudes "
                "lack. A mask volume must have the geometry of the amplitudes."
            )
        values = labelled.amplitude
        unknown = np.isnan(values) if self.ignore_value is None else np.isnan(values) | (values == self.ignore_value)
        mask[:, np.searchsorted(section.across, labelled.across)] = np.where(unknown, IGNORE, values != 0)
        return mask


class Polygons(Labels):
    """A CSV with the columns ``inline,crossline,time,body`` (or ``depth``): a row for each vertex, in drawing order.

    Along inlines, the rows of one inline and body are a closed polygon over crosslines and time; along crosslines
    likewise over inlines. What it encloses is salt, the rest of the line background. A row that names a line alone
    says that there is no salt in it.

    Raises:
        SaltsegError: if it is no such table.
    """

    def __init__(self, path: Path, survey: Segy, direction: Direction) -> None:
        self.table = read_polygons(path, direction)
        super().__init__(path, survey, direction)

    @property
    def numbers(self) -> list[int]:
        return sorted(int(n) for n in self.table["line"].unique())

    def mask(self, number: int, section: Section) -> Array8:
        rows = self.table[self.table["line"] == number]
        if rows.empty:
            return np.full(section.amplitude.shape, IGNORE, np.uint8)
        mask = np.zeros(section.amplitude.shape, np.uint8)
        for body, vertices in rows.dropna(subset=["across", "z"]).groupby("body", sort=False):
            where = f"data.labels: {self.path}, {self.direction} {number}, body {body}"
            if len(vertices) < 3:
                raise SaltsegError(f"{where} has {len(vertices)} vertices; a polygon takes three.")
            z = (vertices["z"].to_numpy() - self.survey.start) / self.survey.interval
            filled = fill(columns(vertices["across"].to_numpy(), section.across), z, mask.shape)
            if not filled.any():
                end = self.survey.start + self.survey.interval * (self.survey.samples - 1)
                raise SaltsegError(
                    f"{where} covers no sample: it spans {_span(vertices['across'])} and {_span(vertices['z'])}, the "
                    f"line {section.across[0]} to {section.across[-1]} and {self.survey.start:g} to {end:g}. Are its "
                    "units those of the SEG-Y (ms or m), and its columns line numbers?"
                )
            mask |= filled
        return mask


def read_polygons(path: Path, direction: Direction) -> pd.DataFrame:
    """The rows of a polygon CSV as ``line``, ``across``, ``z``, ``body``.

    Raises:
        SaltsegError: if it can't be read, a column is missing, or a cell is no number.
    """
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise SaltsegError(f"data.labels: {path} can't be read as a CSV ({error}).") from error
    vertical = next((c for c in VERTICAL if c in table), "time")
    for column in (*COLUMNS, vertical):
        if column not in table:
            raise SaltsegError(
                f"data.labels: {path} has no column '{column}', expected inline,crossline,time,body (or depth)."
                f"{near_miss(column, table.columns)}"
            )
    across = "crossline" if direction == "inline" else "inline"
    found = pd.DataFrame({"body": table["body"].fillna("")})
    for ours, theirs in (("line", direction), ("across", across), ("z", vertical)):
        numbers = pd.to_numeric(table[theirs], errors="coerce")
        wrong = numbers.isna() & (table[theirs].notna() | (ours == "line"))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise SaltsegError(
                f"data.labels: {path}, line {row + 2}: {theirs} is '{table[theirs].iloc[row]}', expected a number."
            )
        found[ours] = numbers
    half = found["across"].isna() != found["z"].isna()
    if half.any():
        row = int(np.flatnonzero(half)[0])
        raise SaltsegError(f"data.labels: {path}, line {row + 2}: a vertex takes both {across} and {vertical}.")
    return found


def columns(across: NDArray[np.float64], known: NDArray[np.int32]) -> NDArray[np.float64]:
    """Line numbers as columns of a section whose traces have the rising numbers ``known``; beyond them, too."""
    step, far = (float(np.median(np.diff(known))) if len(known) > 1 else 1.0), 1e4
    ends = [known[0] - far * step, *known, known[-1] + far * step]
    return np.asarray(np.interp(across, ends, [-far, *range(len(known)), len(known) - 1 + far]))


def fill(x: NDArray[np.float64], y: NDArray[np.float64], shape: tuple[int, ...]) -> Array8:
    """1 on the pixels of ``shape`` (H×W) whose centres a closed polygon encloses or nearly touches, else 0.

    Args:
        x: of its vertices in drawing order, in columns; may lie outside.
        y: in rows.
        shape: of the mask.
    """
    filled = np.zeros(shape[:2], np.uint8)
    limit = 1e5  # fits 32 bits
    vertices = np.rint(np.clip(np.stack([x, y], axis=1), -limit, limit) * 2**SHIFT).astype(np.int32)
    cv2.fillPoly(filled, [vertices], 1, shift=SHIFT)
    return filled


def _span(values: "pd.Series[float]") -> str:
    return f"{values.min():g} to {values.max():g}"
