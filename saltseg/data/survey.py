"""One's own survey: labelled lines of a cube, divided by blocks of neighbours, learned in tiles and scored whole."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from saltseg.data.amplitude import live, stretch
from saltseg.data.datamodule import Drawn, SaltDataModule, Sample
from saltseg.data.images import IGNORE, Array8, Images
from saltseg.data.labels import Labels, open_labels
from saltseg.data.prepare import fit_array
from saltseg.data.segy import Direction, Section, Segy
from saltseg.data.segy_headers import Keys
from saltseg.data.split import PARTS, UNUSED, Split
from saltseg.errors import SaltsegError, check_choice, near_miss


class Tiles(Drawn):
    """Tiles of labelled lines, each drawn from (seed, epoch, index) alone: where it lies and how it is augmented.

    A labelled pixel is drawn, each of all lines as likely as any other, and a tile that holds it.

    Args:
        images: N lines H×W uint8; smaller ones than a tile are mirrored beyond their edges.
        masks: N masks H×W uint8, each with a labelled pixel.
        transform: an albumentations ``Compose``, or None.
        seed: of the draws.
        size: rows and columns of a tile.
        count: tiles of an epoch.
    """

    def __init__(
        self, images: Sequence[Array8], masks: Sequence[Array8], transform: Any, seed: int, size: int, count: int
    ) -> None:
        shapes = [(max(h, size), max(w, size)) for h, w in (i.shape for i in images)]
        super().__init__(
            [fit_array(i, s, "pad") for i, s in zip(images, shapes, strict=True)],
            [fit_array(m, s, "pad", is_mask=True) for m, s in zip(masks, shapes, strict=True)],
            transform,
            seed,
        )
        self.size, self.count = size, count
        # Labelled pixels up to and with each column, and up to and with each line.
        self.by_column = [np.cumsum((mask != IGNORE).sum(axis=0)) for mask in self.masks]
        self.by_line = np.cumsum([int(columns[-1]) for columns in self.by_column])

    def __len__(self) -> int:
        return self.count

    def pick(self, index: int, epoch: int) -> tuple[Array8, Array8]:
        """A tile and its mask."""
        rng = np.random.default_rng((self.seed, epoch, index))
        pixel = int(rng.integers(self.by_line[-1]))
        line = int(np.searchsorted(self.by_line, pixel, side="right"))
        pixel -= int(self.by_line[line - 1]) if line else 0
        column = int(np.searchsorted(self.by_column[line], pixel, side="right"))
        pixel -= int(self.by_column[line][column - 1]) if column else 0
        image, mask = self.images[line], self.masks[line]
        row = int(np.flatnonzero(mask[:, column] != IGNORE)[pixel])
        before = rng.integers(self.size, size=2)
        last = np.subtract(image.shape, self.size)
        top, left = np.clip((row, column) - before, 0, last).tolist()
        tile = slice(top, top + self.size), slice(left, left + self.size)
        return image[tile], mask[tile]


class Survey(SaltDataModule):
    """Labelled lines of a survey.

    They are divided by ``blocks`` of neighbours, ``gap`` lines apart where these are of different parts; or as
    ``train_lines``, ``val_lines`` and ``test_lines`` say. Dead, muted and water samples are not labelled.

    Args:
        amplitude: a post-stack SEG-Y cube.
        labels: what is salt: a SEG-Y or a CSV, see :mod:`saltseg.data.labels`.
        ignore_value: of a mask volume: samples that are not labelled.
        lines: those that were interpreted; None: all that the labels speak of.
        labelled: ``across`` and ``z``: first and last line number across and time (or depth) that were interpreted;
            None: all.
        direction: of the lines: ``inline`` or ``crossline``.
        keys: bytes of line numbers and coordinates in a trace header, see :class:`~saltseg.data.segy.Keys`.
        tile: rows and columns of a training image; also the window in which amplitudes are stretched.
        tiles_per_epoch: training images of an epoch.
        blocks: of about as many labelled lines each.
        gap: lines of the survey between two parts that are not used.
        train_lines: numbers of the lines to train on; goes with the two others.
        val_lines: to validate on.
        test_lines: to test on.
        **common: goes to :class:`SaltDataModule`.

    Raises:
        SaltsegError: if one of these can't be.
    """

    def __init__(
        self,
        amplitude: str,
        labels: str,
        *,
        ignore_value: float | None = None,
        lines: Sequence[int] | None = None,
        labelled: Mapping[str, Any] | None = None,
        direction: Direction = "inline",
        keys: Mapping[str, int] | None = None,
        tile: int = 128,
        tiles_per_epoch: int = 800,
        blocks: int = 10,
        gap: int = 5,
        train_lines: Sequence[int] | None = None,
        val_lines: Sequence[int] | None = None,
        test_lines: Sequence[int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_choice("data.direction", direction, get_args(Direction))
        for name in keys or {}:
            check_choice("data.keys", name, Keys.__dataclass_fields__)
        for key, number, least in (
            ("tile", tile, 32), ("tiles_per_epoch", tiles_per_epoch, 1), ("blocks", blocks, 3), ("gap", gap, 0),
        ):  # fmt: skip
            if not isinstance(number, int) or number < least:
                raise SaltsegError(f"data.{key}={number}: expected a whole number from {least} on.")
        self.amplitude, self.labels, self.ignore_value = Path(amplitude), Path(labels), ignore_value
        self.direction, self.keys = direction, Keys(**dict(keys or {}))
        self.limits = {k: v for k, v in dict(labelled or {}).items() if v is not None}
        self.size, self.tiles_per_epoch, self.blocks, self.gap = tile, tiles_per_epoch, blocks, gap
        self.listed = _listed(dict(zip(PARTS, (train_lines, val_lines, test_lines), strict=True)))
        # Which setting names a line.
        self.named = {n: f"{part}_lines" for n, part in self.listed.items()} or dict.fromkeys(lines or (), "lines")
        for key, limits in self.limits.items():
            check_choice("data.labelled", key, ("across", "z"))
            if len(limits) != 2 or not limits[0] <= limits[1]:
                raise SaltsegError(f"data.labelled.{key}={limits}: expected the first and the last, as [100,250].")

    @property
    def image_size(self) -> tuple[int, int]:
        """Of a tile."""
        return self.size, self.size

    def read(self) -> Images:
        """The labelled lines, in blocks of neighbours."""
        with (
            Segy.open(self.amplitude, self.keys) as survey,
            open_labels(self.labels, survey, self.direction, self.ignore_value) as labels,
        ):
            if not survey.is_cube:
                raise SaltsegError(
                    f"data.amplitude: {self.amplitude} is a 2-D line; what is divided into parts are the lines of a "
                    "cube. For sections as images, see data=folder."
                )
            every = survey.numbers(self.direction)
            found = {n: self.read_line(n, survey, labels) for n in self.wanted(labels, every)}
        labelled = [n for n, (_, mask) in found.items() if (mask != IGNORE).any()]
        if bare := sorted(set(self.named) - set(labelled)):
            raise SaltsegError(
                f"data.{self.named[bare[0]]}: {self.direction} {bare[0]} is not labelled in {self.labels} "
                f"({len(bare)} of those listed are not). In a CSV, a row that names the line alone says: no salt."
            )
        if not labelled:
            raise SaltsegError(f"data.labels: {self.labels} labels no live sample of any {self.direction}.")
        self.places = np.searchsorted(every, labelled)
        blocks = np.array_split(np.array(labelled), min(self.blocks, len(labelled)))
        width = max(len(str(every[-1])), 4)
        return Images(
            ids=[f"{self.direction}_{n:0{width}d}" for n in labelled],
            images=[found[n][0] for n in labelled],
            masks=[found[n][1] for n in labelled],
            depth=np.full(len(labelled), np.nan),
            group=[f"{self.direction}s {block[0]}-{block[-1]}" for block in blocks for _ in block],
            suspect=np.zeros(len(labelled), bool),
            part=[self.listed[n] for n in labelled] if self.listed else None,
        )

    @property
    def division(self) -> Split:
        """Which line is in which part; where blocks of two parts meet, lines are in none."""
        if self._split is None and not self.listed:
            self._split = apart(super().division, self.places, self.gap)
        return super().division

    def wanted(self, labels: Labels, every: Sequence[int]) -> list[int]:
        """The numbers of the lines to read, rising.

        Raises:
            SaltsegError: if one that is named does not exist.
        """
        if unknown := sorted(set(self.named) - set(every)):
            raise SaltsegError(
                f"data.{self.named[unknown[0]]}: {self.amplitude} has no {self.direction} {unknown[0]}."
                f"{near_miss(str(unknown[0]), every)}"
            )
        return sorted(self.named or labels.numbers)

    def read_line(self, number: int, survey: Segy, labels: Labels) -> tuple[Array8, Array8]:
        """Image and mask of a line, samples × traces."""
        section = survey.section(self.direction, number)
        alive = live(section.amplitude, survey.dead[section.traces])
        mask = labels.mask(number, section)
        mask[~alive | ~self.within(section, survey)] = IGNORE
        return stretch(section.amplitude, alive, (self.size, self.size)), mask

    def within(self, section: Section, survey: Segy) -> NDArray[np.bool_]:
        """What of a section lies in the labelled range, samples × traces."""
        z = survey.start + survey.interval * np.arange(survey.samples)
        down, across = (
            (values >= first) & (values <= last)
            for values, (first, last) in (
                (z, self.limits.get("z", (-np.inf, np.inf))),
                (section.across, self.limits.get("across", (-np.inf, np.inf))),
            )
        )
        return np.asarray(down[:, None] & across)

    def seen(self) -> Sequence[Array8]:
        """Some tiles."""
        tiles = self.drawn(self.part("train"))
        return [tiles.pick(index, epoch=0)[0] for index in range(min(len(tiles), 200))]

    def drawn(self, images: Images) -> Tiles:
        """Tiles, as many as were asked for."""
        return Tiles(images.images, images.masks, self.augmentation, self.seed, self.size, self.tiles_per_epoch)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Whole lines, one at a time, so that memory doesn't grow with their number."""
        return self._plain(self.part("val"), batch_size=1)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Likewise."""
        return self._plain(self.part("test"), batch_size=1)


def apart(division: Split, places: NDArray[np.int64], gap: int) -> Split:
    """A division in which at least ``gap`` lines lie between lines of different parts; those in between are in none.

    Training gives way to validation, and both to the test.

    Args:
        division: of N lines.
        places: of the N lines among all lines of the survey.
        gap: lines of the survey.
    """
    part = division.part.copy()
    for name, others in (("val", ("test",)), ("train", ("val", "test"))):
        mine, theirs = np.flatnonzero(part == name), np.flatnonzero(np.isin(part, others))
        near = np.abs(places[mine][:, None] - places[theirs]) <= gap
        part[mine[near.any(axis=1)]] = UNUSED
    for name in PARTS:
        if not (part == name).any():
            raise SaltsegError(
                f"data.gap={gap} leaves no line for {name}. Label more lines, or ask for a smaller gap or other sizes "
                "(data.split.train, .val, .test)."
            )
    return replace(division, part=part)


def _listed(lists: Mapping[str, Sequence[int] | None]) -> dict[int, str]:
    """Lines to parts, where these are given.

    Raises:
        SaltsegError: if one is given and another not, or a line is in two.
    """
    given = [part for part, lines in lists.items() if lines]
    if not given:
        return {}
    if missing := [part for part in lists if part not in given]:
        raise SaltsegError(
            f"data.{missing[0]}_lines must be given, too: data.train_lines, data.val_lines and data.test_lines go "
            "together."
        )
    numbers = list(chain.from_iterable(lists[part] or () for part in PARTS))
    if twice := sorted({n for n in numbers if numbers.count(n) > 1}):
        raise SaltsegError(f"data.train_lines, val_lines, test_lines: {twice[0]} is named twice.")
    return {n: part for part in PARTS for n in lists[part] or ()}
