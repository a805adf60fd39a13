"""What is there of a dataset, file by file: counts, what is damaged or missing, which labels are suspect."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saltseg.data import folder, rle, survey, tgs
from saltseg.data.archive import Place, files, grey, read_image
from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import IGNORE, Array8, Images
from saltseg.data.labels import open_labels
from saltseg.data.segy import Direction, Segy
from saltseg.data.split import identical
from saltseg.errors import SaltsegError

T = TypeVar("T")


@dataclass
class Report:
    """What verifying finds.

    Attributes:
        facts: what is there, in words, by what it is about.
        problems: a sentence for each thing that is damaged or missing.
        suspects: ids of labels that are probably wrong, by kind.
    """

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    suspects: dict[str, list[str]] = field(default_factory=dict)

    def attempt(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """What ``read`` returns, or None and a problem more."""
        try:
            return read(*arguments)
        except SaltsegError as error:
            self.problems.append(str(error))
            return None

    def pairs(
        self,
        images: Mapping[str, Place],
        masks: Mapping[str, Any],
        read_tile: Callable[[Place], Array8],
        read_mask: Callable[[str], Array8],
    ) -> Images:
        """Every image and mask tried; those that can be read and belong together."""
        found: dict[str, tuple[Array8, Array8]] = {}
        for name in sorted(images.keys() | masks.keys()):
            image = self.attempt(read_tile, images[name]) if name in images else None
            mask = self.attempt(read_mask, name) if name in masks else None
            if name not in masks:
                self.problems.append(f"{images[name]} has no mask.")
            elif name not in images:
                self.problems.append(f"{masks[name] if isinstance(masks[name], Place) else name} has no image.")
            elif image is not None and mask is not None and image.shape != mask.shape:
                self.problems.append(f"{images[name]} is {_size(image)} pixels, its mask {_size(mask)}.")
            elif image is not None and mask is not None:
                found[name] = image, mask
        return Images(
            ids=list(found),
            images=[image for image, _ in found.values()],
            masks=[mask for _, mask in found.values()],
            depth=np.full(len(found), np.nan),
            group=[""] * len(found),
            suspect=np.zeros(len(found), bool),
        )

    def describe(self, images: Images) -> None:
        """Facts on images and masks that could be read."""
        self.facts["images with masks"] = str(len(images))
        if not len(images):
            return
        self.facts["sizes"] = _count(Counter(_size(image) for image in images.images))
        copies = [n for n in Counter(identical(images.images)).values() if n > 1]
        groups = f", in groups of {', '.join(map(str, sorted(copies, reverse=True)[:5]))}" if copies else ""
        self.facts["identical images"] = f"{sum(copies)}{groups}"
        self.facts["images of one value"] = str(sum(image.min() == image.max() for image in images.images))
        coverage, pixels = images.coverage, np.array([int((mask == 1).sum()) for mask in images.masks])
        self.facts["salt share"] = f"{coverage.mean():.1%} of the pixels"
        self.facts["masks"] = (
            f"{(pixels == 0).sum()} empty ({np.mean(pixels == 0):.1%}), "
            f"{((pixels > 0) & (pixels <= 10)).sum()} with 1 to 10 pixels, "
            f"{(coverage > 0.9).sum()} over 90% salt, {(coverage == 1).sum()} full"
        )
        known = images.depth[np.isfinite(images.depth)]
        self.facts["depths"] = (
            f"{known.min():g} to {known.max():g}, {len(images) - len(known)} missing" if len(known) else "none"
        )

    def suspect(self, images: Images, found: Mapping[str, NDArray[np.bool_]]) -> None:
        """Keep the ids of suspect labels."""
        self.suspects = {kind: [images.ids[k] for k in np.flatnonzero(flags).tolist()] for kind, flags in found.items()}

    def table(self) -> pd.DataFrame:
        """The suspects as rows ``id,kind``."""
        return pd.DataFrame([(i, kind) for kind, ids in self.suspects.items() for i in ids], columns=["id", "kind"])


@singledispatch
def verify(data: SaltDataModule) -> Report:
    """Everything that can be told of a dataset; goes on where something is damaged.

    Raises:
        SaltsegError: if there is nothing.
    """
    report = Report()
    report.describe(data.images)
    report.suspect(data.images, {"labels": data.images.suspect})
    return report


@verify.register
def verify_tgs(data: tgs.TGS) -> Report:
    """TGS: also the tables, the bit depths and the unlabelled images."""
    report = Report()
    root, layout = data.root, tgs.layout_of(data.root)
    for part, place in (
        ("images", layout.images),
        ("masks", layout.masks),
        ("RLE", layout.rles),
        ("depth", layout.depths),
    ):
        report.facts[f"{part} in"] = str(place or "missing").replace(f"{root}{os.sep}", "")
    tiles = files(layout.images, ".png")
    masks = tgs.read_mask_sources(layout)
    bits: Counter[str] = Counter()

    def read_mask(name: str) -> Array8:
        source = masks[name]
        if isinstance(source, str):
            return tgs.read_mask(source, name)
        pixels = read_image(source)
        bits[f"{pixels.dtype.itemsize * 8}-bit"] += 1
        return tgs.to_mask(pixels, source)

    images = report.pairs(tiles, masks, tgs.read_tile, read_mask)
    depths = report.attempt(tgs.read_depths, layout)
    if depths is not None:
        images.depth[:] = depths.reindex(list(images.ids)).to_numpy()
    report.describe(images)
    if bits:
        report.facts["mask files"] = _count(bits)
    _compare_rles(report, layout, images, tiles.keys() | masks.keys())
    held = _verify_test_images(report, root)
    if depths is not None and held:  # the table of all images tells which files are gone
        gone = sorted(set(depths.index) - set(tiles) - set(masks) - held)
        report.problems += [f"{name} stands in {layout.depths}, but there is no such image." for name in gone]
    report.suspect(images, tgs.find_suspects(images.images, images.masks))
    return report


def _compare_rles(report: Report, layout: tgs.Layout, images: Images, known: Set[str]) -> None:
    """Whether ``train.csv`` says what the files in ``masks/`` do."""
    if layout.rles is None or layout.masks is None:
        return
    official = report.attempt(tgs.read_rles, layout.rles)
    if official is None:
        return
    before = len(report.problems)
    for name, mask in zip(images.ids, images.masks, strict=True):
        if name in official:
            decoded = report.attempt(tgs.read_mask, official[name], name)
            wrong = 0 if decoded is None else int((decoded != mask).sum())
            if wrong:
                report.problems.append(
                    f"The mask of {name} differs from its RLE in train.csv in {wrong} of {mask.size} pixels."
                )
    report.problems += [f"{name} has no row in {layout.rles}." for name in images.ids if name not in official]
    report.problems += [f"{name} has a row in {layout.rles}, but no files." for name in sorted(official.keys() - known)]
    exact = sum(official.get(n) == rle.encode(m) for n, m in zip(images.ids, images.masks, strict=True))
    agree = "agrees with the masks" if len(report.problems) == before else "differs from the masks"
    report.facts["train.csv"] = f"{len(official)} rows, {agree}, {exact} to the character"


def _verify_test_images(report: Report, root: Path) -> set[str]:
    """The ids of the unlabelled images, each of them tried."""
    layout = report.attempt(tgs.find_layout, root, "test")
    if layout is None:
        report.facts["test images"] = "none"
        return set()
    found = files(layout.images, ".png")
    read = sum(report.attempt(tgs.read_tile, place) is not None for place in found.values())
    report.facts["test images"] = f"{read} of {len(found)} readable, no labels"
    return set(found)


@verify.register
def verify_folder(data: folder.Folder) -> Report:
    """A user's own images: also the kinds of files and the table of the split."""
    report = Report()
    images, masks = folder.listings(data.image_folder, data.mask_folder)
    report.facts |= {"images in": str(data.image_folder), "masks in": str(data.mask_folder)}
    kinds: Counter[str] = Counter()
    values: Counter[float] = Counter()

    def read_picture(place: Place) -> Array8:
        pixels = read_image(place)
        kinds[f"{pixels.dtype} {'grey' if pixels.ndim == 2 else 'colour'}"] += 1
        return folder.to_image(pixels, place)

    def read_mask(name: str) -> Array8:
        pixels = read_image(masks[name])
        values.update(np.unique(grey(pixels)).tolist())
        return folder.to_mask(pixels, data.ignore_value)

    readable = report.pairs(images, masks, read_picture, read_mask)
    report.describe(readable)
    report.facts["image files"] = _count(kinds)
    report.facts["mask values"] = ", ".join(f"{value:g}" for value in sorted(values)[:10]) + (
        " …" if len(values) > 10 else ""
    )
    if data.split_csv is not None:
        table = report.attempt(folder.read_split, data.split_csv, list(images))
        if table is not None:
            report.facts["split"] = _count(Counter(table["split"]))
    return report


@verify.register
def verify_survey(data: survey.Survey) -> Report:
    """One's own survey: what the files hold, how much of it is labelled, and what the gaps cost."""
    report = Report()
    with Segy.open(data.amplitude, data.keys) as cube:
        lines = ", ".join(f"{len(cube.numbers(d))} {d}s" for d in get_args(Direction))
        report.facts["amplitude"] = (
            f"{data.amplitude}: {lines}, {cube.samples} samples at {cube.interval:g} from {cube.start:g}"
        )
        report.facts["dead traces"] = f"{cube.dead.sum()} of {cube.traces}"
        with open_labels(data.labels, cube, data.direction, data.ignore_value) as labels:
            numbers = labels.numbers
            some = f", {numbers[0]} to {numbers[-1]}" if numbers else ""
            report.facts["labels"] = f"{len(numbers)} {data.direction}s{some} in {data.labels}"
    images = report.attempt(data.read)
    if images is None:
        return report
    report.describe(images)
    pixels = sum(mask.size for mask in images.masks)
    ignored = sum(int((mask == IGNORE).sum()) for mask in images.masks)
    report.facts["not labelled, dead or water"] = f"{ignored / max(pixels, 1):.1%} of these lines"
    report.facts["blocks"] = ", ".join(dict.fromkeys(images.group))
    division = report.attempt(lambda: data.division)
    if division is not None:
        report.facts["split"] = _count(Counter(str(part) or "gaps" for part in division.part))
    return report


def _size(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape[:2]))


def _count(counts: Counter[str]) -> str:
    """The most frequent first, eight at most."""
    shown = ", ".join(f"{n} of {what}" for what, n in counts.most_common(8))
    return shown + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")
