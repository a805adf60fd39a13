"""Anybody's own images and masks: two folders of files with the same stems."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saltseg.data.archive import Place, enter, files, grey, read_image
from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import IGNORE, Array8, Images
from saltseg.data.split import PARTS
from saltseg.errors import SaltsegError, near_miss

#: Masks are read from lossless formats only: JPEG leaves traces of salt all around a body.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
IMAGE_SUFFIXES = (*MASK_SUFFIXES, ".jpg", ".jpeg")


def to_image(pixels: NDArray[Any], place: Place) -> Array8:
    """Decoded pixels H×W or H×W×C of any bit depth as grey uint8 H×W.

    All but 8 bit is min–max stretched, each image on its own, as the tiles of TGS were.

    Raises:
        SaltsegError: if a pixel is not finite.
    """
    pixels = grey(pixels)
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise SaltsegError(f"{place} has pixels that are NaN or infinite: replace them, by 0 for instance.")
    low, high = values.min(), values.max()
    return np.asarray(np.rint((values - low) * (255 / (high - low) if high > low else 0)), np.uint8)


def to_mask(pixels: NDArray[Any], ignore_value: float | None) -> Array8:
    """Decoded mask H×W or H×W×C: 0 is background, ``ignore_value`` becomes :data:`IGNORE`, anything else is salt."""
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)  # any colour is salt, also one too dark to be grey
    mask = np.asarray(pixels != 0, np.uint8)
    if ignore_value is not None:
        mask[pixels == ignore_value] = IGNORE
    return mask


def read_folder(
    images: Path, masks: Path, *, ignore_value: float | None = None, split_csv: Path | None = None
) -> Images:
    """Images and masks with the same stem, sorted by it; see :class:`Folder`.

    Raises:
        SaltsegError: if a folder is missing or empty, a file damaged, or image and mask don't fit; names key and file.
    """
    image_files, mask_files = listings(images, masks)
    _check_pairs(image_files, mask_files)
    ids = list(image_files)
    pictures = [to_image(read_image(place), place) for place in image_files.values()]
    labels = [to_mask(read_image(mask_files[name]), ignore_value) for name in ids]
    for name, picture, label in zip(ids, pictures, labels, strict=True):
        if picture.shape != label.shape:
            ours, theirs = ("×".join(map(str, array.shape)) for array in (picture, label))
            raise SaltsegError(
                f"{image_files[name]} is {ours} pixels, its mask {mask_files[name]} {theirs}; they must agree."
            )
    table = read_split(split_csv, ids) if split_csv else pd.DataFrame(index=ids)
    return Images(
        ids=ids,
        images=pictures,
        masks=labels,
        depth=_numbers(table["depth"], split_csv) if "depth" in table else np.full(len(ids), np.nan),
        group=table["group"].tolist() if "group" in table else [""] * len(ids),
        suspect=np.zeros(len(ids), bool),
        part=table["split"].tolist() if "split" in table else None,
    )


def listings(images: Path, masks: Path) -> tuple[dict[str, Place], dict[str, Place]]:
    """The files of both folders by their stems.

    Raises:
        SaltsegError: if a folder (or zip) is missing, empty or damaged.
    """
    return _listing("data.images", images, IMAGE_SUFFIXES), _listing("data.masks", masks, MASK_SUFFIXES)


def _listing(key: str, folder: Path, suffixes: tuple[str, ...]) -> dict[str, Place]:
    if not folder.exists():
        raise SaltsegError(f"{key}: {folder} does not exist, expected a folder (or a zip) of images.")
    place = enter(folder)
    if not place.is_dir():
        raise SaltsegError(f"{key}: {folder} is a file, expected a folder (or a zip) of images.")
    found = files(place, *suffixes)
    if not found:
        raise SaltsegError(f"{key}: {folder} has no images in it, expected files ending in {' '.join(suffixes)}.")
    return found


def _check_pairs(images: dict[str, Place], masks: dict[str, Place]) -> None:
    for ours, theirs, key, lacks in ((images, masks, "images", "mask"), (masks, images, "masks", "image")):
        if lonely := sorted(set(ours) - set(theirs)):
            some = ", ".join(ours[name].name for name in lonely[:5]) + (" …" if len(lonely) > 5 else "")
            raise SaltsegError(
                f"data.{key}: {len(lonely)} of {len(ours)} files have no {lacks} of the same stem: {some}. "
                "Add what is missing or take these out."
            )


def read_split(path: Path, ids: list[str]) -> pd.DataFrame:
    """The rows of a table ``id,split[,group,depth]`` in the order of ``ids``, as text.

    Raises:
        SaltsegError: if it is no such table, or doesn't hold each id once.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise SaltsegError(f"data.split_csv: {path} can't be read as a CSV ({error}).") from error
    for column in ("id", "split"):
        if column not in table:
            miss = near_miss(column, table.columns)
            raise SaltsegError(
                f"data.split_csv: {path} has no column '{column}', expected id,split[,group,depth].{miss}"
            )
    # The ids may be given with or without a suffix.
    known = set(ids)
    table["id"] = [name if name in known else Path(name).stem for name in table["id"]]
    if twice := table["id"][table["id"].duplicated()].tolist():
        raise SaltsegError(f"data.split_csv: {path} has the id {twice[0]} more than once.")
    given = set(table["id"])
    if missing := [name for name in ids if name not in given]:
        raise SaltsegError(
            f"data.split_csv: {path} lacks {len(missing)} of the {len(ids)} images: {', '.join(missing[:5])}."
        )
    if wrong := sorted(set(table["split"]) - set(PARTS)):
        raise SaltsegError(f"data.split_csv: {path}, column split: '{wrong[0]}' is none of {', '.join(PARTS)}.")
    table = table.set_index("id").loc[ids]
    if absent := [part for part in PARTS if part not in set(table["split"])]:
        raise SaltsegError(f"data.split_csv: {path}, column split: no image is in {' nor in '.join(absent)}.")
    return table


def _numbers(column: "pd.Series[str]", path: Path | None) -> NDArray[np.float64]:
    try:
        return column.replace("", "nan").to_numpy(dtype=np.float64)
    except ValueError as error:
        raise SaltsegError(f"data.split_csv: {path}, column {column.name}: {error}.") from error


class Folder(SaltDataModule):
    """A user's own images.

    Args:
        images: a folder (or zip) of grey or RGB images, 8 or 16 bit or float, of any sizes.
        masks: a folder (or zip) of masks with the same stems and sizes: 0 background, anything else salt.
        ignore_value: the mask value of pixels that are not labelled.
        split_csv: a table ``id,split[,group,depth]``, split one of train, val, test; null: drawn as ``split`` says.
        **common: goes to :class:`SaltDataModule`.
    """

    def __init__(
        self,
        images: str,
        masks: str,
        ignore_value: float | None = None,
        split_csv: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.image_folder, self.mask_folder = Path(images), Path(masks)
        self.ignore_value, self.split_csv = ignore_value, Path(split_csv) if split_csv else None

    def read(self) -> Images:
        return read_folder(
            self.image_folder, self.mask_folder, ignore_value=self.ignore_value, split_csv=self.split_csv
        )
