"""A folder or a zip, read by name: both are walked with the same few methods of ``pathlib``, and images are decoded."""

import io
import zipfile
import zlib
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from saltseg.errors import SaltsegError

#: A folder or file on disk or inside a zip: ``/``, ``iterdir``, ``is_dir``, ``exists``, ``read_bytes``, ``open``.
Place = Path | zipfile.Path

# How the files begin and end whose missing end OpenCV fills up with a mere warning: PNG, JPEG.
_ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}


def enter(place: Place) -> Place:
    """What is inside a zip (also one that lies in another zip), as a folder; anything else as it is.

    Raises:
        SaltsegError: if the zip is truncated or not a zip.
    """
    if place.suffix.lower() != ".zip" or not place.is_file():
        return place
    try:
        # A zip within a zip is held in memory: seeking inside a compressed member would inflate it again and again.
        archive = zipfile.ZipFile(place if isinstance(place, Path) else io.BytesIO(place.read_bytes()))
        archive.filename = str(place)
        return zipfile.Path(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SaltsegError(f"{place} is not a whole zip file ({error}): copy or download it again.") from error


def files(folder: Place, *suffixes: str) -> dict[str, Place]:
    """The files of a folder by their stem, sorted by it; hidden ones (``._x.png`` of macOS) left out.

    Args:
        folder: on disk or in a zip.
        suffixes: those wanted, lower case with the dot; all when none is given.

    Raises:
        SaltsegError: if two files have the same stem.
    """
    found: dict[str, Place] = {}
    places: dict[str, Place] = {place.name: place for place in folder.iterdir()}
    for name, place in sorted(places.items()):
        parts = PurePath(name)  # asked once: in a zip each question of a place parses its whole path
        if name.startswith(".") or place.is_dir() or (suffixes and parts.suffix.lower() not in suffixes):
            continue
        if parts.stem in found:
            raise SaltsegError(
                f"{place} and {found[parts.stem].name} have the same stem: an image's id must be unique."
            )
        found[parts.stem] = place
    return dict(sorted(found.items()))


def read_bytes(place: Place) -> bytes:
    """The bytes of a file.

    Raises:
        SaltsegError: if it can't be read, or is damaged inside its zip.
    """
    try:
        return place.read_bytes()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SaltsegError(f"{place} can't be read ({error}): copy or download it again.") from error


def read_image(place: Place) -> NDArray[Any]:
    """The pixels of a PNG, TIFF, JPEG …, H×W or H×W×C (BGR), with the file's own bit depth.

    Raises:
        SaltsegError: if the file is truncated or no image.
    """
    data = read_bytes(place)
    whole = all(end in data[-1024:] for start, end in _ENDS.items() if data.startswith(start))
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data and whole else None
    except cv2.error as error:
        raise SaltsegError(f"{place} can't be decoded: {error.err}.") from error
    if pixels is None:
        raise SaltsegError(f"{place} is truncated or not an image ({len(data)} bytes): copy or download it again.")
    return np.asarray(pixels)


def grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """H×W from H×W or H×W×C (BGR, alpha dropped); grey stored as RGB comes back exactly."""
    if pixels.ndim == 2:
        return pixels
    first = np.ascontiguousarray(pixels[..., 0])
    if pixels.shape[2] < 3 or not any((pixels[..., k] != first).any() for k in (1, 2)):
        return first
    colour = pixels[..., :3]
    if colour.dtype not in (np.uint8, np.uint16, np.float32):  # which are all that OpenCV converts
        colour = colour.astype(np.float32)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_BGR2GRAY))
