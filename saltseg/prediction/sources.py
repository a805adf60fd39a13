"""What can be predicted beside surveys: images in a folder, a zip or by themselves, and sections in NumPy's files."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from saltseg.data.amplitude import live, stretch
from saltseg.data.archive import Place, enter, read_image
from saltseg.data.folder import IMAGE_SUFFIXES, to_image
from saltseg.data.images import Array8
from saltseg.data.tgs import find_layout
from saltseg.errors import SaltsegError

ARRAY_SUFFIXES = (".npy", ".npz")
SEGY_SUFFIXES = (".sgy", ".segy", ".seg")


@dataclass(frozen=True)
class Source:
    """One image to be predicted.

    Attributes:
        name: what its products are called: its path below the input without the ending.
        read: gives it, h×w uint8; raises SaltsegError if it is damaged.
    """

    name: str
    read: Callable[[], Array8]


def sources(path: Path, window: tuple[int, int]) -> list[Source]:
    """All images of an input, sorted by name.

    Args:
        path: a folder or a zip of images, whose folders are searched; one image; a ``.npy`` or ``.npz`` with a section
            H×W or with N of them, N×H×W; or a folder with TGS, whose test images are meant.
        window: within which amplitudes that are not 8 bit are stretched, see :func:`~saltseg.data.amplitude.stretch`.

    Raises:
        SaltsegError: if there is no image.
    """
    if not path.exists():
        raise SaltsegError(f"input: {path} does not exist.")
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _sections(path, window)
    place = enter(path)
    if not place.is_dir():
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            known = " ".join((*IMAGE_SUFFIXES, ".zip", *ARRAY_SUFFIXES, *SEGY_SUFFIXES))
            raise SaltsegError(f"input: {path} is of no kind that is known. Expected a folder or one of {known}.")
        return [Source(path.stem, partial(_read, path))]
    found = {str(PurePosixPath(name).with_suffix("")): (name, file) for name, file in _walk(place)}
    if not found and (layout := find_layout(path, "test")):
        found = {PurePosixPath(name).stem: (name, file) for name, file in _walk(layout.images)}
    if not found:
        raise SaltsegError(f"input: {path} has no images in it, expected files ending in {' '.join(IMAGE_SUFFIXES)}.")
    return [Source(name, partial(_read, file)) for name, (_, file) in sorted(found.items())]


def _read(place: Place) -> Array8:
    return to_image(read_image(place), place)


def _walk(folder: Place, below: str = "") -> Iterator[tuple[str, Place]]:
    """The images under ``folder`` with their paths below it; TGS's own folder ``images`` does not count as one.

    Raises:
        SaltsegError: if two differ in their ending only.
    """
    seen: dict[str, str] = {}
    children: list[Place] = [*folder.iterdir()]
    for child in sorted(children, key=lambda place: place.name):
        if child.name.startswith((".", "__MACOSX")):
            continue
        name = f"{below}{child.name}"
        if child.is_dir():
            yield from _walk(child, "" if (below, child.name) == ("", "images") else f"{name}/")
        elif child.suffix.lower() in IMAGE_SUFFIXES:
            if child.stem in seen:
                raise SaltsegError(f"input: {folder} holds {seen[child.stem]} and {child.name}: one stem, one product.")
            seen[child.stem] = child.name
            yield name, child


def _sections(path: Path, window: tuple[int, int]) -> list[Source]:
    array = _load(path)
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "uif":
        raise SaltsegError(
            f"input: {path} holds {array.dtype} of shape {array.shape}, expected numbers: H×W (samples, traces), N×H×W."
        )
    if array.ndim == 2:
        return [Source(path.stem, partial(_section, array, window))]
    digits = len(str(len(array) - 1))
    return [Source(f"{path.stem}_{k:0{digits}d}", partial(_section, array[k], window)) for k in range(len(array))]


def _section(amplitude: NDArray[np.generic], window: tuple[int, int]) -> Array8:
    if amplitude.dtype == np.uint8:
        return np.asarray(amplitude, np.uint8)
    values = np.asarray(amplitude, np.float32)
    return stretch(values, live(values, np.zeros(values.shape[1], bool)), window)


def _load(path: Path) -> NDArray[np.generic]:
    """The array of a file; that of a ``.npy`` is read as far as it is used."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SaltsegError(f"input: {path} can't be read as an array of numbers ({error}).") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = list(loaded)
        if len(names) != 1:
            raise SaltsegError(f"input: {path} holds {len(names)} arrays ({', '.join(names)}), expected one.")
        return np.asarray(loaded[names[0]])
