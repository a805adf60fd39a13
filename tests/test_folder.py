"""Anybody's images and masks in two folders."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from tgs_trees import zipped

from saltseg.data.folder import Folder, read_folder
from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError

RAMP = np.linspace(0, 255, 40 * 50).reshape(40, 50).astype(np.uint8)
MASK = (RAMP > 100).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        save(tmp_path / f"images/{name}.png", RAMP)
        save(tmp_path / f"masks/{name}.png", MASK * 255)
    return tmp_path


def read(root: Path, **more: object) -> object:
    return read_folder(root / "images", root / "masks", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suffix", "convert"),
    [
        (".png", lambda x: x),
        (".png", lambda x: x.astype(np.uint16) * 250 + 17),
        (".png", lambda x: np.repeat(x[..., None], 3, axis=2)),
        (".png", lambda x: np.dstack([x, x, x, np.full_like(x, 255)])),
        (".png", lambda x: np.repeat((x.astype(np.uint16) * 256)[..., None], 3, axis=2)),
        (".tif", lambda x: x.astype(np.float32) * 1e-3 - 5),
        (".tiff", lambda x: x.astype(np.float64) * 1e4),
        (".tif", lambda x: x.astype(np.uint16)),
        (".bmp", lambda x: x),
    ],
)
def test_depths_and_colours_come_to_the_same(tmp_path: Path, suffix: str, convert: Callable[..., np.ndarray]) -> None:
    image = read_folder(
        save(tmp_path / f"images/x{suffix}", convert(RAMP)).parent, save(tmp_path / "masks/x.png", MASK).parent
    ).images[0]
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RAMP)


def test_jpeg_images(tmp_path: Path) -> None:
    found = read_folder(save(tmp_path / "i/x.jpg", RAMP).parent, save(tmp_path / "m/x.png", MASK).parent).images[0]
    assert np.abs(found.astype(int) - RAMP).max() < 10


def test_constant_16_bit_is_black(tmp_path: Path) -> None:
    flat = np.full((9, 9), 700, np.uint16)
    found = read_folder(save(tmp_path / "i/x.png", flat).parent, save(tmp_path / "m/x.png", flat).parent)
    assert found.images[0].max() == 0
    assert found.masks[0].min() == 1


def test_mask_values(tmp_path: Path) -> None:
    values = np.array([[0, 1, 7, 200]], np.uint8)
    for name, mask in {
        "grey": values,
        "deep": values.astype(np.uint16) * 300,
        "dark": np.dstack([values > 0, 0 * values, 0 * values]).astype(np.uint8),  # blue 1 is no grey at all
    }.items():
        save(tmp_path / f"i/{name}.png", values)
        save(tmp_path / f"m/{name}.png", mask)
    for mask in read_folder(tmp_path / "i", tmp_path / "m").masks:
        np.testing.assert_array_equal(mask, [[0, 1, 1, 1]])
    ignored = read_folder(tmp_path / "i", tmp_path / "m", ignore_value=200)
    np.testing.assert_array_equal(ignored.masks[ignored.ids.index("grey")], [[0, 1, 1, IGNORE]])


def test_ignored_pixels_leave_the_coverage(tmp_path: Path) -> None:
    save(tmp_path / "i/x.png", np.zeros((1, 4), np.uint8))
    save(tmp_path / "m/x.png", np.array([[0, 1, 9, 9]], np.uint8))
    assert read_folder(tmp_path / "i", tmp_path / "m", ignore_value=9).coverage.tolist() == [0.5]


def test_sizes_may_differ_and_zips_are_read(tmp_path: Path) -> None:
    members = {f"{k}.png": cv2.imencode(".png", RAMP[: 10 + k])[1].tobytes() for k in range(3)}
    for name in ("images.zip", "masks.zip"):
        (tmp_path / name).write_bytes(zipped(members))
    found = read_folder(tmp_path / "images.zip", tmp_path / "masks.zip")
    assert [image.shape for image in found.images] == [(10, 50), (11, 50), (12, 50)]


def test_split_table(tree: Path) -> None:
    table = tree / "split.csv"
    table.write_text("id,split,group,depth\nc.png,test,south,10.5\na,train,north,\nb,val,north,3\n")
    found = read_folder(tree / "images", tree / "masks", split_csv=table)
    assert list(found.ids) == ["a", "b", "c"]
    assert found.part == ["train", "val", "test"]
    assert found.group == ["north", "north", "south"]
    np.testing.assert_array_equal(found.depth, [np.nan, 3, 10.5])


def test_split_table_divides_the_data_module(tree: Path) -> None:
    table = tree / "split.csv"
    table.write_text("id,split\na,train\nb,val\nc,test\n")
    data = Folder(str(tree / "images"), str(tree / "masks"), split_csv=str(table))
    assert [data.part(part).ids for part in ("train", "val", "test")] == [["a"], ["b"], ["c"]]


def test_random_split(tree: Path) -> None:
    for k in range(7):
        save(tree / f"images/{k}.png", np.roll(RAMP, k + 1))
        save(tree / f"masks/{k}.png", MASK)
    data = Folder(str(tree / "images"), str(tree / "masks"), split={"train": 6, "val": 2, "test": 2})
    assert sorted(i for part in ("train", "val", "test") for i in data.part(part).ids) == sorted(data.images.ids)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: (t / "masks/b.png").unlink(), r"data\.images: 1 of 3 files have no mask.*b\.png"),
        (lambda t: (t / "images/b.png").unlink(), r"data\.masks: 1 of 3 files have no image.*b\.png"),
        (lambda t: save(t / "masks/b.png", MASK[:-1]), r"images/b\.png is 40×50 pixels, its mask .*masks/b\.png 39×50"),
        (lambda t: (t / "images/a.png").write_bytes((t / "images/a.png").read_bytes()[:-30]), r"a\.png is truncated"),
        (lambda t: (t / "images/a.png").write_bytes(b"hello"), r"a\.png is truncated or not an image"),
        (lambda t: save(t / "images/a.tif", RAMP), r"same stem"),
        (lambda t: (t / "images").rename(t / "pictures"), r"data\.images: .*images does not exist"),
        (lambda t: [f.unlink() for f in (t / "masks").iterdir()], r"data\.masks: .*masks has no images in it.*\.png"),
        (lambda t: [f.rename(f.with_suffix(".jpg")) for f in (t / "masks").iterdir()], r"data\.masks: .*no images"),
    ],
)
def test_damage_is_named(tree: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(tree)
    with pytest.raises(SaltsegError, match=says):
        read(tree)


def test_truncated_jpeg_and_tiff(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    mask = save(tmp_path / "m/x.png", noise).parent
    for suffix in (".jpg", ".tif"):
        file = save(tmp_path / f"i{suffix}/x{suffix}", noise)
        file.write_bytes(file.read_bytes()[:-600])
        with pytest.raises(SaltsegError, match="truncated"):
            read_folder(file.parent, mask)


def test_not_finite(tmp_path: Path) -> None:
    pixels = RAMP.astype(np.float32)
    pixels[3, 4] = np.nan
    with pytest.raises(SaltsegError, match=r"x\.tif has pixels that are NaN"):
        read_folder(save(tmp_path / "i/x.tif", pixels).parent, save(tmp_path / "m/x.png", MASK).parent)


def test_images_may_not_be_a_file(tree: Path) -> None:
    with pytest.raises(SaltsegError, match=r"data\.images: .*a\.png is a file"):
        read_folder(tree / "images/a.png", tree / "masks")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("id,splt\na,train\n", "no column 'split'.*Did you mean 'splt'"),
        ("id,split\na,train\nb,val\n", "lacks 1 of the 3 images: c"),
        ("id,split\na,train\nb,val\nc,dev\n", "'dev' is none of train, val, test"),
        ("id,split\na,train\na,val\nb,val\nc,test\n", "id a more than once"),
        ("id,split\na,train\nb,train\nc,test\n", "no image is in val"),
        ("id,split,depth\na,train,deep\nb,val,1\nc,test,2\n", "column depth"),
        ("", "can't be read as a CSV"),
    ],
)
def test_bad_split_table(tree: Path, table: str, says: str) -> None:
    (tree / "split.csv").write_text(table)
    with pytest.raises(SaltsegError, match=says):
        read(tree, split_csv=tree / "split.csv")


def test_missing_split_table(tree: Path) -> None:
    with pytest.raises(SaltsegError, match=r"data\.split_csv: .*split\.csv can't be read"):
        read(tree, split_csv=tree / "split.csv")
