"""Run-length encoding: column-major, 1-based, official to the character."""

from pathlib import Path

import numpy as np
import pytest

from saltseg.data import rle
from saltseg.data.tgs import SHAPE, layout_of, read_rles, read_tgs
from saltseg.errors import SaltsegError


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[0, 0], [0, 0]], ""),
        ([[1, 1], [1, 1]], "1 4"),
        ([[0, 1], [1, 0]], "2 2"),  # down the first column, on into the second
        ([[1, 0, 0], [0, 0, 1]], "1 1 6 1"),
        ([[0, 255, 0]], "2 1"),
    ],
)
def test_known_values(mask: list[list[int]], text: str) -> None:
    array = np.array(mask, np.uint8)
    assert rle.encode(array) == text
    np.testing.assert_array_equal(rle.decode(text, (array.shape[0], array.shape[1])), array != 0)


def test_decode_inverts_encode() -> None:
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (7, 3), (20, 101)]:
        for share in (0, 0.1, 0.5, 0.9, 1):
            mask = (rng.random((height, width)) < share).astype(np.uint8)
            decoded = rle.decode(rle.encode(mask), (height, width))
            assert decoded.dtype == np.uint8
            np.testing.assert_array_equal(decoded, mask)


def test_adjacent_runs_are_one() -> None:
    np.testing.assert_array_equal(rle.decode("1 2 3 1", (2, 2)), [[1, 1], [1, 0]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1", "pairs"),
        ("1 2 3", "pairs"),
        ("1 x", "whole number"),
        ("1.5 2", "whole number"),
        ("0 1", "does not fit"),
        ("1 0", "does not fit"),
        ("1 -1", "does not fit"),
        ("4 2", "does not fit"),
        ("1 2 2 1", "does not fit"),
        ("3 1 1 1", "does not fit"),
        ("1 99999999999999999999", "whole number"),
        ("1 9223372036854775807", "does not fit"),
    ],
)
def test_malformed_is_refused(text: str, says: str) -> None:
    with pytest.raises(SaltsegError, match=says):
        rle.decode(text, (2, 2))


@pytest.mark.tgs
def test_official_strings_to_the_character(tgs_root: Path) -> None:
    table = layout_of(tgs_root).rles
    assert table is not None
    official, images = read_rles(table), read_tgs(tgs_root)
    assert len(official) == 4000
    for name, mask in zip(images.ids, images.masks, strict=True):
        assert rle.encode(mask) == official[name]
        np.testing.assert_array_equal(rle.decode(official[name], SHAPE), mask)
