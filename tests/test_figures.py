"""The pictures: whole files of a sane size that show what they should, from one image or epoch on."""

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError
from saltseg.pictures import figures, plots, style

ORANGE, BLUE = "#E69F00", "#56B4E9"


def tiles(count: int, shape: tuple[int, int] = (101, 101)) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Layers that dip more from tile to tile, the lower half of each mask salt."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 2 :] = 1
    images = [(128 + 100 * np.sin((rows + columns * i / 9) / 3)).astype(np.uint8) for i in range(count)]
    return images, [mask.copy() for _ in range(count)]


def history(*losses: str) -> pd.DataFrame:
    n = np.arange(len(losses))
    scores = {f"val/{name}": 0.5 + 0.01 * n + offset for name, offset in (("iou", 0.0), ("dice", 0.1), ("map", -0.1))}
    loss = {"train/loss": 1 / (n + 2), "val/loss": 1 / (n + 1.5)}
    return pd.DataFrame({"epoch": n, "loss_name": losses, "lr": 1e-3 / (n + 1), **loss, **scores})


def curve() -> pd.DataFrame:
    t = np.arange(1, 20) / 20
    names = ("iou", "dice", "map", "micro_iou", "precision", "recall")
    return pd.DataFrame({"threshold": t, **{name: 0.8 - k / 50 - (t - 0.4) ** 2 for k, name in enumerate(names)}})


def pixels(path: Path) -> np.ndarray:
    """A finished picture, H×W×3; asserts that it is one, alone in its folder, and not blank."""
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB"), dtype=int)
    assert all(100 < side < 1600 for side in array.shape[:2])
    assert array.std() > 5
    assert path.stat().st_size < 600_000
    return array


def share(array: np.ndarray, colour: str) -> float:
    """The share of pixels of (nearly) this colour."""
    return float((abs(array - 255 * np.array(to_rgb(colour))).max(axis=-1) < 12).mean())


@pytest.mark.parametrize("count", [1, 6])
def test_samples(tmp_path: Path, count: int) -> None:
    images, masks = tiles(count)
    figures.samples(images, masks, [f"id{i}  depth 500 m  salt 50%" for i in range(count)], tmp_path / "samples.png")
    assert share(pixels(tmp_path / "samples.png"), ORANGE) > 0.001


@pytest.mark.parametrize("count", [1, 33])
def test_batch_draws_32_at_most(tmp_path: Path, count: int) -> None:
    images, masks = tiles(count, (128, 128))
    figures.batch(np.stack(images), np.stack(masks), tmp_path / "batch.png")
    drawn = pixels(tmp_path / "batch.png")
    figures.batch(np.stack(images[:32]), np.stack(masks[:32]), tmp_path / "batch.png")
    assert (drawn == pixels(tmp_path / "batch.png")).all()


@pytest.mark.parametrize("count", [1, 14])
def test_sheet(tmp_path: Path, count: int) -> None:
    images, masks = tiles(count)
    figures.sheet(images, masks, tmp_path / "new" / "folder" / "sheet.png")
    assert share(pixels(tmp_path / "new" / "folder" / "sheet.png"), ORANGE) > 0.001


@pytest.mark.parametrize("count", [1, 6])
def test_predictions_show_truth_and_prediction(tmp_path: Path, count: int) -> None:
    images, truths = tiles(count)
    left = np.zeros((101, 101), np.float32)
    left[:, :50] = 1
    titles = [f"id{i}\nIoU 0.333" for i in range(count)]
    figures.predictions(images, truths, [left] * count, titles, tmp_path / "p.png", threshold=0.5)
    drawn = pixels(tmp_path / "p.png")
    assert share(drawn, ORANGE) > 0.001
    assert share(drawn, BLUE) > 0.001


def test_versus_shows_what_is_at_hand() -> None:
    (image,), (mask,) = tiles(1)
    probabilities = [0.9 * mask, np.zeros(mask.shape)]

    def drawn(image: np.ndarray | None, truth: np.ndarray | None) -> np.ndarray:
        png = Image.open(BytesIO(figures.versus(image, truth, probabilities, [0.5, 0.5])))
        return np.asarray(png.convert("RGB"), dtype=int)

    whole, bare, untold = drawn(image, mask == 1), drawn(None, mask == 1), drawn(image, None)
    assert whole.shape == untold.shape
    assert whole.shape[1] > 2.9 * whole.shape[0]  # the image, and two predictions of it
    assert 1.9 < bare.shape[1] / bare.shape[0] < 2.1
    assert share(whole, ORANGE) > 0.001
    assert share(bare, ORANGE) > 0.001
    assert share(untold, ORANGE) == 0
    assert share(untold, BLUE) > 0.001


def test_sizes_may_differ_and_a_full_mask_has_an_outline(tmp_path: Path) -> None:
    images = [np.full(shape, 128, np.uint8) for shape in ((40, 300), (300, 40), (1, 1), (700, 600))]
    figures.sheet(images, [np.zeros_like(i) for i in images], tmp_path / "none.png")
    assert share(np.asarray(Image.open(tmp_path / "none.png"), dtype=int), ORANGE) == 0
    figures.sheet(images, [np.ones_like(i) for i in images], tmp_path / "full.png")
    assert share(np.asarray(Image.open(tmp_path / "full.png"), dtype=int), ORANGE) > 0.005


def test_captions_are_shortened_in_the_middle_and_taken_literally(tmp_path: Path) -> None:
    assert figures._shorten("0123456789", 10) == "0123456789"
    assert figures._shorten("0123456789", 6) == "012…89"
    images, masks = tiles(1)
    figures.samples(images, masks, ["$a_line " * 20 + "IoU 0.5"], tmp_path / "samples.png")
    pixels(tmp_path / "samples.png")


def test_ignored_pixels_are_striped_and_named(tmp_path: Path) -> None:
    images, masks = [np.full((101, 101), 128, np.uint8)], [np.zeros((101, 101), np.uint8)]
    figures.samples(images, masks, ["id"], tmp_path / "samples.png")
    plain = pixels(tmp_path / "samples.png")
    masks[0][:50] = IGNORE
    figures.samples(images, masks, ["id"], tmp_path / "samples.png")
    changed = (plain != pixels(tmp_path / "samples.png")).any(axis=-1)
    right, top = plain.shape[1] // 4, round(0.33 * style.DPI)
    assert changed[top:, right:].any(), "the stripes"
    assert changed[:top].any(), "the key"


def test_phase_starts() -> None:
    assert plots.phase_starts(history(*["bce"] * 20, *["dice"] * 20)) == [(0, "bce"), (20, "dice")]
    assert plots.phase_starts(history("bce")) == [(0, "bce")]
    again = history("bce", "dice", "dice", "bce")
    assert plots.phase_starts(again) == [(0, "bce"), (1, "dice"), (3, "bce")]
    assert plots.phase_starts(again[again["epoch"] > 1]) == [(2, "dice"), (3, "bce")]


def drawn_figure(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: kept.append(figure))
    return kept


def test_curves_mark_the_switch_and_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = drawn_figure(monkeypatch)
    rows = history("bce", "bce", "bce", "dice", "dice")
    rows.loc[2, "val/iou"] = 0.9
    rows.loc[4, "val/iou"] = np.nan
    plots.curves(rows, tmp_path / "c.png")
    loss, score, _ = kept[0].axes
    switches = [[line for line in axes.lines if np.array_equal(line.get_xdata(), [2.5, 2.5])] for axes in (loss, score)]
    assert [len(lines) for lines in switches] == [1, 1]
    assert {text.get_text() for text in loss.texts} == {"bce", "dice from epoch 3", "training", "validation"}
    assert "best IoU 0.900 at epoch 2" in {text.get_text() for text in score.texts}
    stretches = [np.size(line.get_xdata()) for line in loss.lines if line.get_marker() == "o"]
    assert stretches == [3, 2, 3, 2], "no line joins two losses"


@pytest.mark.parametrize("losses", [["bce"], ["bce"] * 3 + ["dice"] * 2, ["a", "b", "c", "d"]])
def test_curves(tmp_path: Path, losses: list[str]) -> None:
    plots.curves(history(*losses), tmp_path / "curves.png")
    pixels(tmp_path / "curves.png")


def test_curves_of_a_run_without_scores_yet(tmp_path: Path) -> None:
    rows = history("bce", "bce")
    rows[["val/loss", "val/iou", "val/dice", "val/map"]] = np.nan
    plots.curves(rows, tmp_path / "curves.png")
    pixels(tmp_path / "curves.png")


def test_thresholds_write_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots.thresholds(curve(), tmp_path / "thresholds.png", threshold=0.5, best=0.4)
    pixels(tmp_path / "thresholds.png")
    kept = drawn_figure(monkeypatch)
    plots.thresholds(curve(), tmp_path / "t.png", threshold=0.5, best=0.4)
    texts = {text.get_text() for text in kept[0].axes[0].texts}
    assert {"in use 0.50: IoU 0.790", "best 0.40: IoU 0.800"} <= texts
    plots.thresholds(curve(), tmp_path / "t.png", threshold=0.4, best=0.4)
    assert "in use and best 0.40: IoU 0.800" in {text.get_text() for text in kept[1].axes[0].texts}


@pytest.mark.parametrize("tempered", [True, False])
def test_reliability_tells_the_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tempered: bool) -> None:
    before = np.zeros((2, 256), np.int64)
    before[:, 51] = before[:, 204] = 10  # called 20% and 80%, and half of either is salt
    after = np.zeros((2, 256), np.int64)
    after[:, 127] = 20
    arguments = (after, 3.0) if tempered else (None, None)
    plots.reliability(before, *arguments, "4 test images", tmp_path / "r.png")
    pixels(tmp_path / "r.png")
    kept = drawn_figure(monkeypatch)
    plots.reliability(before, *arguments, "4 test images", tmp_path / "r.png")
    assert "4 test images" in kept[0].get_suptitle()
    assert ("temperature 3.00" in kept[0].get_suptitle()) == tempered
    said = {text.get_text() for text in kept[0].axes[0].texts}
    assert said == {"untempered: calibration error 0.3000"} | (
        {"tempered: calibration error 0.0020"} if tempered else set()
    )


def test_retention_draws_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = np.arange(17) / 20
    columns = {
        name: 0.8 + k * dropped / 20 for k, name in enumerate(("boundary", "least_salt", "uncertainty", "perfect"))
    }
    table = pd.DataFrame({"dropped": dropped, **columns})
    plots.retention({"5 images": table}, tmp_path / "r.png")
    pixels(tmp_path / "r.png")
    kept = drawn_figure(monkeypatch)
    plots.retention({"5 images": table, "3 images with salt": table.assign(disagreement=0.9)}, tmp_path / "r.png")
    texts = [{text.get_text() for text in axes.texts} for axes in kept[0].axes]
    assert "5 images\nIoU 0.800, without the unsure fifth 0.820" in texts[0]
    assert texts[1] - texts[0] == {"most disputed", "3 images with salt\nIoU 0.800, without the unsure fifth 0.820"}


def test_names_at_the_line_ends_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = drawn_figure(monkeypatch)
    rows = history("bce", "bce")
    rows["val/dice"] = rows["val/map"] = rows["val/iou"]
    plots.curves(rows, tmp_path / "c.png")
    kept[0].draw_without_rendering()
    boxes = [t.get_window_extent() for t in kept[0].axes[1].texts if t.get_text() in ("Dice", "IoU", "mAP")]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_failure_leaves_the_old_picture_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sheet.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(SaltsegError, match="disk full"):
        figures.sheet(*tiles(1), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        figures.sheet([], [], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="no epoch"):
        plots.curves(history(), tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_matplotlib_settings_stay(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plots.thresholds(curve(), tmp_path / "t.png", 0.5, 0.4)
    assert dict(matplotlib.rcParams) == before
