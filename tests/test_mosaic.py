"""Tiles cut from one section find each other again, and nothing else does."""

from pathlib import Path

import numpy as np
import pytest
from tgs_trees import cut, section

from saltseg.data import mosaic
from saltseg.data.images import Array8
from saltseg.data.tgs import read_tgs


def stretched(tile: Array8) -> Array8:
    return np.interp(tile, (tile.min(), tile.max()), (0, 255)).astype(np.uint8)


def test_a_cut_section_is_put_together_again() -> None:
    rows, columns = 4, 5
    tiles = [stretched(tile) for tile in cut(section(rows * 101, columns * 101, seed=0), rows, columns)]
    order = np.random.default_rng(1).permutation(len(tiles))
    place = {int(tile): divmod(int(where), columns) for tile, where in enumerate(order)}  # (row, column) of each
    pairs = mosaic.neighbours([tiles[k] for k in order])
    steps = {"right": (0, 1), "below": (1, 0)}
    for first, second, direction in pairs:
        assert np.subtract(place[second], place[first]).tolist() == list(steps[direction])
    assert len(pairs) == rows * (columns - 1) + (rows - 1) * columns


def test_groups_are_the_sections() -> None:
    tiles, truth = [], []
    for seed in range(3):
        tiles += cut(section(202, 303, seed), 2, 3)
        truth += [seed] * 6
    lonely = section(101, 101, seed=9)
    names = mosaic.groups([*tiles, lonely])
    assert len(set(names)) == 4
    assert all((names[i] == names[j]) == (truth[i] == truth[j]) for i in range(18) for j in range(18))
    assert names[-1] not in names[:-1]


def test_a_mirrored_section_gives_the_mirrored_pairs() -> None:
    tiles = cut(section(202, 303, seed=4), 2, 3)
    pairs = mosaic.neighbours(tiles)
    mirrored = mosaic.neighbours([np.ascontiguousarray(tile[:, ::-1]) for tile in tiles])
    assert {(p.second, p.first) if p.direction == "right" else (p.first, p.second) for p in pairs} == {
        (p.first, p.second) for p in mirrored
    }


def test_images_without_contrast_or_repeated_touch_nothing() -> None:
    noise = section(101, 101, seed=5)
    blank = [np.full((101, 101), value, np.uint8) for value in (0, 0, 128, 255)]
    assert mosaic.neighbours(blank) == []
    assert mosaic.neighbours([*blank, noise, noise]) == []
    assert mosaic.neighbours([]) == []
    assert len(set(mosaic.groups(blank))) == len(blank)


def test_sizes_may_differ() -> None:
    image = section(101, 250, seed=6)
    pairs = mosaic.neighbours([image[:, 101:], section(64, 64, seed=7), image[:, :101]])
    assert pairs == [mosaic.Pair(2, 0, "right")]


@pytest.mark.tgs
def test_tgs_has_mosaics(tgs_root: Path) -> None:
    images = read_tgs(tgs_root)
    _, counts = np.unique(mosaic.groups(images.images), return_counts=True)
    assert 0.15 < counts[counts > 1].sum() / len(images) < 0.3
    assert counts.max() < 20  # no chain of false matches
    # Salt goes on across most of the edges at which tiles touch; between tiles drawn at random it does in 0.62.
    agreement = [
        np.mean(mosaic.edge(images.masks[i], "right") == mosaic.edge(images.masks[j], "left"))
        for i, j, direction in mosaic.neighbours(images.images)
        if direction == "right"
    ]
    assert np.mean(agreement) > 0.7
