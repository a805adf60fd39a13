"""TGS in every layout, whole and damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tgs_trees as trees
from tgs_trees import IDS, LAYOUTS, cut, section

from saltseg.data.images import Images
from saltseg.data.tgs import TGS, find_suspects, find_tgs, iter_test_images, read_tgs
from saltseg.errors import SaltsegError


def check(images: Images, depths: bool = True) -> None:
    assert list(images.ids) == list(IDS)
    for name, image, mask in zip(IDS, images.images, images.masks, strict=True):
        assert image.dtype == mask.dtype == np.uint8
        np.testing.assert_array_equal(image, trees.image(name))
        np.testing.assert_array_equal(mask, trees.mask(name))
    np.testing.assert_array_equal(images.depth, [trees.DEPTHS[n] if depths else np.nan for n in IDS])
    assert not images.suspect.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(tmp_path: Path, layout: str) -> None:
    root = trees.write(tmp_path, LAYOUTS[layout]())
    assert find_tgs(root)
    check(read_tgs(root), depths=layout != "tables missing")


def test_root_may_be_the_big_zip_itself(tmp_path: Path) -> None:
    big = tmp_path / "tgs-salt-identification-challenge.zip"
    big.write_bytes(trees.zipped(trees.zips()))
    check(read_tgs(big))
    assert find_tgs(big)


def test_order_in_the_zip_does_not_matter(tmp_path: Path) -> None:
    shuffled = dict(reversed(trees.train_files().items()))
    check(read_tgs(trees.write(tmp_path, trees.tables() | {"train.zip": trees.zipped(shuffled)})))


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    extra = {"__MACOSX/images/._x.png": b"x", "images/._y.png": b"x", "images/.DS_Store": b"x"}
    check(read_tgs(trees.write(tmp_path, trees.tables() | {"train.zip": trees.zipped(trees.train_files() | extra)})))


@pytest.mark.parametrize("layout", ["zips", "folders", "one big zip of zips", "folder within the zip"])
def test_test_images(tmp_path: Path, layout: str) -> None:
    found = dict(iter_test_images(trees.write(tmp_path, LAYOUTS[layout]())))
    assert list(found) == ["f000000000", "f000000001"]
    for name, image in found.items():
        np.testing.assert_array_equal(image, trees.image(name))


def test_test_images_are_not_taken_for_training_images(tmp_path: Path) -> None:
    root = trees.write(tmp_path, trees.test_files() | trees.tables())  # a test.zip that was extracted in place
    assert not find_tgs(root)
    check(read_tgs(trees.write(root, {"train.zip": trees.zipped(trees.train_files())})))


def test_data_module_reads_it(tmp_path: Path) -> None:
    check(TGS(root=str(trees.write(tmp_path, LAYOUTS["zips"]()))).images)


# --- damage ---------------------------------------------------------------------------------------------------------

Files = dict[str, bytes]
FIRST, SECOND = f"images/{IDS[0]}.png", f"masks/{IDS[1]}.png"


def without(members: Files, *names: str) -> Files:
    return {name: data for name, data in members.items() if name not in names}


def cut_short(members: Files, name: str) -> Files:
    return members | {name: members[name][:-40]}


DAMAGE: dict[str, tuple[Callable[[Files], Files], list[str]]] = {
    "mask missing": (lambda f: without(f, SECOND), ["1 image without a mask", IDS[1]]),
    "image missing": (lambda f: without(f, FIRST), ["1 mask without an image", IDS[0]]),
    "truncated image": (lambda f: cut_short(f, FIRST), [f"{IDS[0]}.png", "truncated"]),
    "truncated mask": (lambda f: cut_short(f, SECOND), [f"{IDS[1]}.png", "truncated"]),
    "empty file": (lambda f: f | {FIRST: b""}, [f"{IDS[0]}.png", "truncated"]),
    "not an image": (lambda f: f | {FIRST: b"<html>log in</html>"}, [f"{IDS[0]}.png", "not an image"]),
    "wrong size": (lambda f: f | {FIRST: trees.png(np.ones((101, 100), np.uint8))}, [IDS[0], "101×100", "101×101"]),
    "wrong mask size": (lambda f: f | {SECOND: trees.png(np.ones((64, 64), np.uint8))}, [IDS[1], "64×64", "101×101"]),
    "16-bit image": (lambda f: f | {FIRST: trees.png(np.ones((101, 101), np.uint16))}, [IDS[0], "uint16", "uint8"]),
}


@pytest.mark.parametrize("container", ["zip", "folder"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str, container: str) -> None:
    spoil, says = DAMAGE[kind]
    members = spoil(trees.train_files())
    inside = {"train.zip": trees.zipped(members)} if container == "zip" else trees.under("train", members)
    with pytest.raises(SaltsegError) as error:
        read_tgs(trees.write(tmp_path, trees.tables() | inside))
    for words in says:
        assert words in str(error.value)


def test_at_most_five_are_named(tmp_path: Path) -> None:
    extra = {f"images/{k:010x}.png": trees.png(trees.image("0")) for k in range(7)}
    with pytest.raises(SaltsegError, match=r"7 images without a mask.*0000000004 …\. "):
        read_tgs(trees.write(tmp_path, {"train.zip": trees.zipped(trees.train_files() | extra)}))


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_truncated_zip(tmp_path: Path, keep: float) -> None:
    data = trees.zipped(trees.train_files())
    root = trees.write(tmp_path, {"train.zip": data[: int(len(data) * keep)]})
    with pytest.raises(SaltsegError, match=r"train\.zip is not a whole zip"):
        read_tgs(root)
    assert find_tgs(root)  # damaged is not absent: synthetic data must not silently take its place


def test_damaged_member_of_a_zip(tmp_path: Path) -> None:
    data = bytearray(trees.zipped(trees.train_files()))
    data[60:300] = bytes(240)  # inside the first image
    with pytest.raises(SaltsegError, match=rf"{IDS[0]}\.png can't be read"):
        read_tgs(trees.write(tmp_path, {"train.zip": bytes(data)}))


@pytest.mark.parametrize("state", ["does not exist", "is empty", "holds no train images"])
def test_nothing_there_says_how_to_get_it(tmp_path: Path, state: str) -> None:
    root = tmp_path / "tgs"
    if state != "does not exist":
        root.mkdir()
    if state.startswith("holds"):
        (root / "notes.txt").write_text("hello")
    assert not find_tgs(root)
    with pytest.raises(SaltsegError) as error:
        read_tgs(root)
    for words in ("data.root", str(root), state, "action=download", "kaggle.com", "SALTSEG_TGS"):
        assert words in str(error.value)


def test_empty_image_folder(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    with pytest.raises(SaltsegError, match=r"train/images is empty.*action=download"):
        read_tgs(tmp_path)


def test_images_without_masks_and_table(tmp_path: Path) -> None:
    images = {n: d for n, d in trees.train_files().items() if n.startswith("images")}
    with pytest.raises(SaltsegError, match=r"neither masks/ nor train\.csv"):
        read_tgs(trees.write(tmp_path, {"train.zip": trees.zipped(images)}))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("id,mask\n", "lacks the column rle_mask"),
        ("", "is not a CSV"),
        (f"id,rle_mask\n{IDS[0]},1 1\n", "3 images without a mask"),
        (f"id,rle_mask\n{IDS[0]},1 1\n{IDS[0]},1 1\n", "more than once"),
        ("id,rle_mask\n" + "".join(f"{n},1 2 3\n" for n in IDS), f"id {IDS[0]}.*pairs"),
    ],
)
def test_damaged_table(tmp_path: Path, table: str, says: str) -> None:
    members = LAYOUTS["masks from train.csv"]() | {"train.csv": table.encode()}
    with pytest.raises(SaltsegError, match=says):
        read_tgs(trees.write(tmp_path, members))


@pytest.mark.parametrize(("row", "says"), [(f"{IDS[0]},deep", "column z"), ("x,1\nx,2", "more than once")])
def test_damaged_depths(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(SaltsegError, match=says):
        read_tgs(trees.write(tmp_path, trees.zips() | {"depths.csv": f"id,z\n{row}\n".encode()}))


def test_missing_depths_are_nan(tmp_path: Path) -> None:
    root = trees.write(tmp_path, trees.zips() | {"depths.csv": f"id,z\n{IDS[1]},7\n{IDS[2]},\n".encode()})
    np.testing.assert_array_equal(read_tgs(root).depth, [np.nan, 7, np.nan, np.nan])


# --- suspects -------------------------------------------------------------------------------------------------------


def test_suspects_of_each_kind() -> None:
    tiles = cut(section(202, 303, seed=0), 2, 3)
    masks = [np.zeros((101, 101), np.uint8) for _ in tiles]
    masks[0][:] = 1  # over 90% salt along its edges: tiles 1 (right) and 3 (below) are empty and face it
    masks[5][:, 40:] = 1  # the same in every row, and its left edge is free of salt; 2 (above) is 60% salt along it
    tiles.append(np.zeros((101, 101), np.uint8))
    masks.append(np.zeros((101, 101), np.uint8))
    found = find_suspects(tiles, masks)
    assert np.flatnonzero(found["columns"]).tolist() == [0, 5]
    assert np.flatnonzero(found["unlabelled"]).tolist() == [1, 3]


@pytest.mark.tgs
def test_the_real_data(tgs_root: Path) -> None:
    images = read_tgs(tgs_root)
    assert len(images) == 4000
    assert sum(not mask.any() for mask in images.masks) == 1562
    assert sum(0 < int(mask.sum()) <= 10 for mask in images.masks) == 45
    assert (images.coverage > 0.9).sum() == 245
    assert images.coverage.max() < 1
    assert (np.nanmin(images.depth), np.nanmax(images.depth)) == (51, 959)
    found = find_suspects(images.images, images.masks)
    assert found["columns"].sum() == 113
    black = np.array([image.max() == 0 for image in images.images])
    assert black.sum() == 80
    assert not (found["unlabelled"] & black).any()
    np.testing.assert_array_equal(images.suspect, found["columns"] | found["unlabelled"])
