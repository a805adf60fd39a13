"""The TGS Salt Identification Challenge: 4000 labelled images of 101×101 pixels and 18000 unlabelled ones.

https://www.kaggle.com/competitions/tgs-salt-identification-challenge
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saltseg.data import mosaic, rle
from saltseg.data.archive import Place, enter, files, grey, read_image
from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import Array8, Images
from saltseg.errors import SaltsegError

SHAPE = (101, 101)
HOW_TO_GET = (
    "Get it by `python -m saltseg.dataset action=download`, or put train.zip, train.csv and depths.csv of "
    "https://www.kaggle.com/competitions/tgs-salt-identification-challenge/data into that folder; "
    "data.root= or the environment variable SALTSEG_TGS says where it is."
)


@dataclass(frozen=True)
class Layout:
    """Where the parts of TGS lie, on disk or in a zip; None for what isn't there."""

    images: Place
    masks: Place | None
    rles: Place | None
    depths: Place | None


def find_layout(root: Path, part: str = "train") -> Layout | None:
    """The layout under ``root`` (a folder or the competition's one big zip); None when there is none.

    ``part`` (train or test) is looked for as the folder ``part`` or ``part.zip`` with ``images`` in it, in the root, in
    its ``competition_data`` and in any other zip that lies there.

    Raises:
        SaltsegError: if a zip on the way is damaged.
    """
    return _find(root, part, {}) if root.exists() else None


def _find(place: Place, part: str, tables: dict[str, Place], depth: int = 0) -> Layout | None:
    base = enter(place)
    if not base.is_dir() or depth > 5:
        return None
    tables = tables | {name: base / name for name in ("train.csv", "depths.csv") if (base / name).is_file()}
    images, masks = base / "images", base / "masks"
    here = Layout(images, masks if masks.is_dir() else None, tables.get("train.csv"), tables.get("depths.csv"))
    if place.stem == part and images.is_dir():
        return here
    likely = [base / name for name in (part, f"{part}.zip", "competition_data", "competition_data.zip")]
    other = {place.name for place in likely} | {"train.zip", "test.zip"}
    zips = [p for p in base.iterdir() if p.suffix.lower() == ".zip" and p.name not in other]
    for child in [p for p in likely if p.exists()] + sorted(zips, key=lambda p: p.name):
        if layout := _find(child, part, tables, depth + 1):
            return layout
    # A train.zip extracted where it lay; images without masks here would be a test.zip's.
    return here if part == "train" and images.is_dir() and masks.is_dir() else None


def find_tgs(root: Path) -> bool:
    """Whether there is TGS under ``root``, whole or damaged; nothing is decoded."""
    try:
        return find_layout(root) is not None
    except SaltsegError:  # damaged is there: reading it says what is wrong, another dataset in its place would hide it
        return True


def layout_of(root: Path, part: str = "train") -> Layout:
    """As :func:`find_layout`.

    Raises:
        SaltsegError: if there is no such layout under ``root``.
    """
    layout = find_layout(root, part)
    if layout is None:
        state = "does not exist" if not root.exists() else "is empty" if _is_empty(root) else f"holds no {part} images"
        raise SaltsegError(f"data.root: {root} {state}, expected TGS. {HOW_TO_GET}")
    return layout


def _is_empty(root: Path) -> bool:
    return root.is_dir() and not any(root.iterdir())


def read_tgs(root: Path) -> Images:
    """All labelled images, sorted by id.

    Raises:
        SaltsegError: if the data is missing, incomplete or damaged; names ``data.root`` and the files.
    """
    layout = layout_of(root)
    images = files(layout.images, ".png")
    if not images:
        raise SaltsegError(f"data.root: {layout.images} is empty, expected TGS. {HOW_TO_GET}")
    masks = read_mask_sources(layout)
    check_pairs(list(images), list(masks), layout)
    tiles = [read_tile(place) for place in images.values()]
    labels = [read_mask(masks[name], name) for name in images]
    return Images(
        ids=list(images),
        images=tiles,
        masks=labels,
        depth=np.asarray(read_depths(layout).reindex(list(images)), np.float64),
        group=[""] * len(images),
        suspect=np.any(list(find_suspects(tiles, labels).values()), axis=0),
    )


def read_mask_sources(layout: Layout) -> dict[str, Place | str]:
    """For each id where its mask comes from: a file of ``masks/``, or an RLE of ``train.csv`` when that is missing."""
    if layout.masks is not None:
        return dict(files(layout.masks, ".png"))
    if layout.rles is None:
        raise SaltsegError(f"data.root: beside {layout.images} there is neither masks/ nor train.csv. {HOW_TO_GET}")
    return dict(read_rles(layout.rles))


def read_table(place: Place, columns: list[str]) -> pd.DataFrame:
    """A CSV of the competition by its ``id``, all values as text.

    Raises:
        SaltsegError: if it is no CSV or lacks a column.
    """
    try:
        with place.open("r", encoding="utf-8") as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise SaltsegError(f"data.root: {place} is not a CSV ({error}).") from error
    if missing := {"id", *columns} - set(table.columns):
        raise SaltsegError(
            f"data.root: {place} lacks the column {', '.join(missing)}; it has {', '.join(table.columns)}."
        )
    if len(twice := table["id"][table["id"].duplicated()]):
        raise SaltsegError(f"data.root: {place} has {len(twice)} ids more than once, such as {twice.iloc[0]}.")
    return table.set_index("id")


def read_rles(place: Place) -> dict[str, str]:
    """The RLE of each id in ``train.csv``; "" where the mask is empty."""
    return {str(name): str(text) for name, text in read_table(place, ["rle_mask"])["rle_mask"].items()}


def read_depths(layout: Layout) -> "pd.Series[float]":
    """The depth of each id of ``depths.csv``, as far as there is one."""
    if layout.depths is None:
        return pd.Series(dtype=float)
    try:
        return read_table(layout.depths, ["z"])["z"].replace("", "nan").astype(float)
    except ValueError as error:
        raise SaltsegError(f"data.root: {layout.depths}, column z: {error}.") from error


def check_pairs(images: list[str], masks: list[str], layout: Layout) -> None:
    """Ids of images and masks must be the same.

    Raises:
        SaltsegError: if an image has no mask or a mask no image; names up to five.
    """
    for missing, what in ((set(images) - set(masks), "without a mask"), (set(masks) - set(images), "without an image")):
        if missing:
            some = ", ".join(sorted(missing)[:5]) + (" …" if len(missing) > 5 else "")
            thing = "image" if what.endswith("mask") else "mask"
            place = layout.images if thing == "image" else layout.masks or layout.rles
            raise SaltsegError(
                f"data.root: {len(missing)} {thing}{'s' if len(missing) > 1 else ''} {what} in {place}: {some}. "
                "Copy or download the data again; `python -m saltseg.dataset action=verify` lists all."
            )


def read_tile(place: Place) -> Array8:
    """An image of 101×101, grey, uint8.

    Raises:
        SaltsegError: if it is damaged, of another size or not 8 bit.
    """
    return to_tile(read_image(place), place)


def to_tile(pixels: NDArray[Any], place: Place) -> Array8:
    """What :func:`read_tile` makes of decoded pixels."""
    if pixels.dtype != np.uint8:
        raise SaltsegError(f"{place} has {pixels.dtype} pixels, expected uint8 as all images of TGS.")
    return np.asarray(_sized(grey(pixels), place), np.uint8)


def read_mask(source: Place | str, name: str) -> Array8:
    """A mask of 101×101, 0 or 1, from a file (8 or 16 bit; anything above 0 is salt) or an RLE.

    Raises:
        SaltsegError: if it is damaged or of another size.
    """
    if isinstance(source, str):
        try:
            return rle.decode(source, SHAPE)
        except SaltsegError as error:
            raise SaltsegError(f"data.root: train.csv, id {name}: {error}") from error
    return to_mask(read_image(source), source)


def to_mask(pixels: NDArray[Any], place: Place) -> Array8:
    """What :func:`read_mask` makes of decoded pixels."""
    return np.asarray(_sized(grey(pixels), place) > 0, np.uint8)


def _sized(pixels: NDArray[Any], place: Place) -> NDArray[Any]:
    if pixels.shape != SHAPE:
        raise SaltsegError(f"{place} has {pixels.shape[0]}×{pixels.shape[1]} pixels, expected {SHAPE[0]}×{SHAPE[1]}.")
    return pixels


def iter_test_images(root: Path) -> Iterator[tuple[str, Array8]]:
    """The id and the image (101×101, uint8) of each of the unlabelled images, sorted by id."""
    for name, place in files(layout_of(root, "test").images, ".png").items():
        yield name, read_tile(place)


def find_suspects(images: Sequence[Array8], masks: Sequence[Array8]) -> dict[str, NDArray[np.bool_]]:
    """Labels that are probably wrong, by kind.

    Returns:
        ``columns``: N booleans, the mask is the same in every row, as if drawn by its top edge alone (113 in TGS).
        ``unlabelled``: N booleans, the mask is empty though a neighbour's is over 90% salt along the common edge: the
        tile may well be all salt, for no mask of TGS is full.
    """
    columns = np.array([mask.any() and not (mask != mask[0]).any() for mask in masks], bool)
    unlabelled = np.zeros(len(masks), bool)
    empty = np.array([not mask.any() for mask in masks], bool)
    sides: dict[str, tuple[mosaic.Side, mosaic.Side]] = {"right": ("right", "left"), "below": ("bottom", "top")}
    for first, second, direction in mosaic.neighbours(images):
        for tile, neighbour, facing in zip((first, second), (second, first), reversed(sides[direction]), strict=True):
            if empty[tile] and np.mean(mosaic.edge(masks[neighbour], facing)) > 0.9:
                unlabelled[tile] = True
    return {"columns": columns, "unlabelled": unlabelled}


class TGS(SaltDataModule):
    """The labelled images of TGS, see :func:`read_tgs`; ``common`` goes to :class:`SaltDataModule`."""

    def __init__(self, root: str, **common: Any) -> None:
        super().__init__(**common)
        self.root = Path(root)

    def read(self) -> Images:
        return read_tgs(self.root)
