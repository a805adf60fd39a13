"""Small copies of TGS in every layout in which it comes, made of noise."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from saltseg.data import rle
from saltseg.data.images import Array8

IDS = ("0a1b2c3d4e", "1a1b2c3d4e", "2a1b2c3d4e", "3a1b2c3d4e")
DEPTHS = dict(zip(IDS, (50, 306, 600, 959), strict=True))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def image(name: str) -> Array8:
    return np.random.default_rng(int(name, 16)).integers(0, 256, (101, 101), dtype=np.uint8)


def mask(name: str) -> Array8:
    """Empty for the first id, a body with a sloping top for the others."""
    rows, columns = np.indices((101, 101))
    return (
        (rows > columns + 10 * IDS.index(name)).astype(np.uint8) if name != IDS[0] else np.zeros((101, 101), np.uint8)
    )


def train_files() -> dict[str, bytes]:
    """``images/`` and ``masks/``: RGB images of grey; 16-bit masks, the empty one 8-bit, as in TGS."""
    images = {f"images/{n}.png": png(np.repeat(image(n)[..., None], 3, axis=2)) for n in IDS}
    masks = {f"masks/{n}.png": png(mask(n).astype(np.uint16) * 65535 if mask(n).any() else mask(n)) for n in IDS}
    return images | masks


def test_files() -> dict[str, bytes]:
    return {f"images/{n}.png": png(image(n)) for n in ("f000000000", "f000000001")}


test_files.__test__ = False  # type: ignore[attr-defined]


def tables() -> dict[str, bytes]:
    rows = "".join(f"{n},{rle.encode(mask(n))}\n" for n in reversed(IDS))
    depths = "".join(f"{n},{z}\n" for n, z in {**DEPTHS, "f000000000": 60, "f000000001": 70}.items())
    return {"train.csv": f"id,rle_mask\n{rows}".encode(), "depths.csv": f"id,z\n{depths}".encode()}


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def under(folder: str, members: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in members.items()}


def write(root: Path, members: Mapping[str, bytes]) -> Path:
    for name, data in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zips() -> dict[str, bytes]:
    """What Kaggle's page offers, as it is."""
    return tables() | {"train.zip": zipped(train_files()), "test.zip": zipped(test_files())}


def folders() -> dict[str, bytes]:
    return tables() | under("train", train_files()) | under("test", test_files())


LAYOUTS = {
    "zips": zips,
    "folders": folders,
    "extracted in place": lambda: tables() | train_files(),
    "one big zip of zips": lambda: {"tgs-salt-identification-challenge.zip": zipped(zips())},
    "one big zip, zips stored": lambda: {"all.zip": zipped(zips(), zipfile.ZIP_STORED)},
    "one big zip of folders": lambda: {"tgs-salt-identification-challenge.zip": zipped(folders())},
    "competition_data folder": lambda: under("competition_data", folders()),
    "competition_data zip": lambda: tables() | {"competition_data.zip": zipped(under("competition_data", folders()))},
    "competition_data zip in the big zip": lambda: {
        "big.zip": zipped({"competition_data.zip": zipped(under("competition_data", folders()))})
    },
    "folder within the zip": lambda: (
        tables() | {"train.zip": zipped(under("train", train_files())), "test.zip": zipped(under("test", test_files()))}
    ),
    "tables missing": lambda: {"train.zip": zipped(train_files())},
    "masks from train.csv": lambda: (
        tables() | {"train.zip": zipped({n: d for n, d in train_files().items() if n.startswith("images")})}
    ),
    "masks from train.csv, folders": lambda: (
        tables() | under("train", {n: d for n, d in train_files().items() if n.startswith("images")})
    ),
}


def section(height: int, width: int, seed: int) -> Array8:
    """Smooth noise, correlated over a few pixels as seismic is."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2.5)
    return np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8)


def cut(image: Array8, rows: int, columns: int) -> list[Array8]:
    return [tile for strip in np.split(image, rows) for tile in np.split(strip, columns, axis=1)]
