"""Small SEG-Y files, what is changed in them, and a copy."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from survey_maker import LARGEST, Recipe, write

from saltseg.data.segy import Copy, Segy

SHAPE = (5, 7, 20)  # inlines × crosslines × samples
CUBE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def make(path: Path, cube: np.ndarray = CUBE, **recipe: Any) -> Path:
    write(path, cube, Recipe(scale=1 if recipe.get("format", 1) not in LARGEST else None, **recipe))
    return path


def patch(path: Path, byte: int, kind: str, *values: float) -> Path:
    """Overwrite words from ``byte`` of the file on, counted from 1."""
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, byte - 1, *values)
    path.write_bytes(content)
    return path


def patch_traces(path: Path, byte: int, kind: str, values: Any) -> Path:
    """Overwrite a word of each trace header (IBM or IEEE floats, big endian)."""
    content = bytearray(path.read_bytes())
    for k, value in enumerate(values):
        struct.pack_into(">" + kind, content, 3600 + k * (240 + 4 * SHAPE[2]) + byte - 1, value)
    path.write_bytes(content)
    return path


def sections(survey: Segy, direction: Any = "inline") -> Iterator[Any]:
    for number in survey.numbers(direction):
        yield survey.section(direction, number)


def copied(path: Path, to: Path, **more: Any) -> Path:
    """A copy of the file with its own samples, written line by line in a mixed order."""
    with Segy.open(path) as survey, Copy(survey, to, note="SALT PROBABILITY", **more) as copy:
        for section in sorted(sections(survey), key=lambda s: s.traces[0] % 7):
            copy.write(section.traces, section.amplitude)
    return to
