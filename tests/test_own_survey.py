"""``data=segy``: labelled lines of one's own survey, from polygons or a mask volume to a run."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from runs import call, failure

from saltseg import dataset, evaluate, train
from saltseg.data.images import IGNORE
from saltseg.data.labels import columns, fill
from saltseg.data.split import PARTS, Split
from saltseg.data.survey import Survey, Tiles, apart
from saltseg.data.verify import verify
from saltseg.errors import SaltsegError
from saltseg.metrics import histograms
from saltseg.module import CERTAINLY_NOT_SALT
from saltseg.run import Run

segyio = pytest.importorskip("segyio")

INLINES, CROSSLINES, SAMPLES = range(100, 140), range(200, 250), 60
START, STEP = 100.0, 4.0
SPLIT = {"train": None, "val": 0.2, "test": 0.2, "group": "given"}


def write(path: Path, cube: np.ndarray, inlines=INLINES, crosslines=CROSSLINES) -> str:
    """A cube, inlines × crosslines × samples, as a SEG-Y."""
    spec = segyio.spec()
    spec.sorting, spec.format, spec.samples = 2, 5, START + STEP * np.arange(cube.shape[2])
    spec.ilines, spec.xlines = list(inlines), list(crosslines)
    with segyio.create(str(path), spec) as file:
        file.bin.update({segyio.BinField.Interval: int(STEP * 1000)})
        for k, (i, x) in enumerate((i, x) for i in spec.ilines for x in spec.xlines):
            file.header[k] = {
                segyio.TraceField.INLINE_3D: i, segyio.TraceField.CROSSLINE_3D: x,
                segyio.TraceField.DelayRecordingTime: int(START),
            }  # fmt: skip
            file.trace[k] = cube[inlines.index(i), crosslines.index(x)]
    return str(path)


def salt() -> np.ndarray:
    """A ball in the middle of the cube."""
    i, x, z = np.ogrid[: len(INLINES), : len(CROSSLINES), :SAMPLES]
    return ((i - 20) ** 2 + (x - 25) ** 2 + (z - 30) ** 2 < 15**2).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Amplitudes with ten samples of water on top and a dead trace in each inline, and what is salt in them."""
    folder = tmp_path_factory.mktemp("survey")
    cube = np.random.default_rng(0).normal(size=(len(INLINES), len(CROSSLINES), SAMPLES)).astype(np.float32)
    cube += np.sign(cube) + 3 * salt()  # nothing is as quiet as water

    cube[:, :, :10] = 0
    cube[:, 7] = 0
    return {"amplitude": write(folder / "amplitude.sgy", cube), "labels": write(folder / "salt.sgy", salt())}


def polygons(path: Path, *rows: str, columns: str = "inline,crossline,time,body") -> str:
    path.write_text("\n".join([columns, *rows]) + "\n")
    return str(path)


def rectangle(line: int, first: int, last: int, top: float, base: float, body: str = "a") -> list[str]:
    corners = ((first, top), (last, top), (last, base), (first, base))
    return [f"{line},{across},{z},{body}" for across, z in corners]


# --- labels ---------------------------------------------------------------------------------------------------------


def test_a_rectangle_is_filled_with_its_edges():
    mask = fill(np.array([2.0, 5, 5, 2]), np.array([1.0, 1, 3, 3]), (6, 8))
    expected = np.zeros((6, 8))
    expected[1:4, 2:6] = 1
    np.testing.assert_array_equal(mask, expected)


def test_a_disk_is_filled_to_the_pixel():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    mask = fill(30.3 + 20 * np.cos(angle), 28.6 + 20 * np.sin(angle), (60, 70))
    y, x = np.ogrid[:60, :70]
    distance = np.hypot(x - 30.3, y - 28.6)
    assert mask[distance < 19.3].all()
    assert not mask[distance > 20.7].any()


def test_drawing_order_counts_and_the_way_round_does_not():
    x, y = np.array([1.0, 9, 9, 5, 1]), np.array([1.0, 1, 9, 5, 9])  # a notch from below
    mask = fill(x, y, (11, 11))
    np.testing.assert_array_equal(mask, fill(x[::-1], y[::-1], (11, 11)))
    assert mask[2, 5]
    assert not mask[8, 5]
    np.testing.assert_array_equal(mask, fill(x, y, (11, 11)))


def test_line_numbers_become_columns_where_traces_are_missing_and_beyond():
    known = np.array([10, 12, 14, 20], np.int32)
    np.testing.assert_allclose(columns(np.array([10.0, 13, 17, 20, 22, 6]), known), [0, 1.5, 2.5, 3, 4, -2])


def test_polygons_and_a_mask_volume_say_the_same(tmp_path, files):
    rows = rectangle(120, 210, 230, START + 4 * 20, START + 4 * 40)
    volume = np.full((len(INLINES), len(CROSSLINES), SAMPLES), 9, np.float32)
    volume[20] = 0
    volume[20, 10:31, 20:41] = 1
    both = {
        "polygons": Survey(files["amplitude"], polygons(tmp_path / "salt.csv", *rows)).read(),
        "volume": Survey(files["amplitude"], write(tmp_path / "salt.sgy", volume), ignore_value=9).read(),
    }
    for found in both.values():
        assert found.ids == ["inline_0120"]
        (mask,) = found.masks
        assert (mask == 1).sum() == 21 * 21
        assert (mask[20:41, 10:31] == 1).all()
        assert (mask[:10] == IGNORE).all()  # water
        assert (mask[:, 7] == IGNORE).all()  # dead
        assert (mask == IGNORE).sum() == 10 * 50 + 50
        assert found.images[0].shape == (SAMPLES, 50)
        assert found.images[0].dtype == np.uint8
    np.testing.assert_array_equal(both["polygons"].masks[0], both["volume"].masks[0])


def test_bodies_on_crosslines_and_a_line_without_salt(tmp_path, files):
    rows = [f"{i},215,{z},{b}" for b, t in (("a", 200), ("b", 280)) for i, z in ((104, t), (110, t), (110, t + 20))]
    found = Survey(files["amplitude"], polygons(tmp_path / "s.csv", *rows, ",225,,"), direction="crossline").read()
    assert found.ids == ["crossline_0215", "crossline_0225"]
    assert found.images[0].shape == (SAMPLES, 40)
    assert [(mask == 1).any() for mask in found.masks] == [True, False]
    rows, columns_ = np.nonzero(found.masks[0] == 1)
    assert (columns_.min(), columns_.max(), rows.min(), rows.max()) == (4, 10, 25, 50)


def test_what_lies_outside_the_labelled_range_is_not_background(files):
    (mask, *_) = (
        Survey(files["amplitude"], files["labels"], labelled={"across": [220, 229], "z": [200, 296]}).read().masks
    )
    rows, columns_ = np.nonzero(mask != IGNORE)
    assert (columns_.min(), columns_.max(), rows.min(), rows.max()) == (20, 29, 25, 49)


def test_lines_and_traces_that_a_mask_volume_lacks_are_not_labelled(tmp_path, files):
    part = write(tmp_path / "part.sgy", salt()[4:14, :20], range(104, 114), range(200, 220))
    found = Survey(files["amplitude"], part).read()
    assert found.ids == [f"inline_0{n}" for n in range(104, 114)]
    assert all((mask[:, 20:] == IGNORE).all() and (mask[10:, :7] == 0).all() for mask in found.masks)


def test_what_is_not_labelled_counts_neither_for_the_loss_nor_for_a_score(files):
    data = Survey(files["amplitude"], files["labels"], tile=32, batch_size=4, split=SPLIT)
    batch = next(iter(data.train_dataloader()))
    ignored = batch["mask"] == IGNORE
    assert ignored.any()
    logits = torch.zeros(batch["mask"].shape, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.masked_fill(ignored, CERTAINLY_NOT_SALT), (batch["mask"] == 1).float()
    )
    loss.backward()
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all()
    counts = histograms(torch.ones(batch["mask"].shape), batch["mask"])
    assert int(counts.sum()) == int((~ignored).sum())


# --- division -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 7])
@pytest.mark.parametrize("gap", [0, 3, 10])
def test_parts_keep_their_distance_and_lose_no_more_than_that(step, gap):
    places = np.arange(3, 200, step)
    blocks = np.array_split(np.arange(len(places)), 10)
    part = np.concatenate(
        [np.full(len(b), p) for b, p in zip(blocks, ["train", "val", "test", "train", "train"] * 2, strict=True)]
    )
    found = apart(Split(part, np.full(len(part), -1)), places, gap).part
    used = np.flatnonzero(found != "")
    assert (found[used] == part[used]).all()
    between = np.abs(places[:, None] - places) - 1  # lines between each two
    other = part[:, None] != part
    assert (between[np.ix_(used, used)][other[np.ix_(used, used)]] >= gap).all()
    assert (found == "test").sum() == (part == "test").sum()
    for k in np.flatnonzero(found == ""):
        assert (between[k][other[k]] < gap).any()


def test_lines_are_divided_by_blocks(files):
    data = Survey(files["amplitude"], files["labels"], split=SPLIT, gap=2)
    numbers = {part: [int(i.removeprefix("inline_")) for i in data.part(part).ids] for part in PARTS}
    pairs = [(a, b) for p in PARTS for q in PARTS if p != q for a in numbers[p] for b in numbers[q]]
    assert min(abs(a - b) for a, b in pairs) == 3
    assert (len(numbers["val"]), len(numbers["test"])) <= (8, 8)
    assert [list(data.images.group).count(g) for g in dict.fromkeys(data.images.group)] == [4] * 10
    assert data.images.group[:5] == ["inlines 100-103"] * 4 + ["inlines 104-107"]
    groups = {part: set(data.part(part).group) for part in PARTS}
    assert not groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"]
    again = Survey(files["amplitude"], files["labels"], split=SPLIT, gap=2)
    assert (again.division.part == data.division.part).all()
    again.divide_as(pd.DataFrame({"id": data.images.ids, "split": data.division.part}))
    assert again.part("train").ids == data.part("train").ids


def test_a_gap_that_leaves_nothing_is_told(files):
    with pytest.raises(SaltsegError, match=r"data\.gap=30 leaves no line for"):
        _ = Survey(files["amplitude"], files["labels"], split=SPLIT, gap=30).division


def test_lines_may_be_listed(files):
    data = Survey(
        files["amplitude"], files["labels"], train_lines=[121, 119], val_lines=[105], test_lines=[135, 136, 137]
    )
    assert [data.part(part).ids for part in PARTS] == [
        ["inline_0119", "inline_0121"], ["inline_0105"], ["inline_0135", "inline_0136", "inline_0137"],
    ]  # fmt: skip
    assert len(data.images) == 6


# --- tiles ----------------------------------------------------------------------------------------------------------


def drawn(files, **options) -> dict[int, bytes]:
    import albumentations

    augmentation = albumentations.Compose(
        [albumentations.HorizontalFlip(), albumentations.RandomBrightnessContrast(p=1)]
    )
    data = Survey(files["amplitude"], files["labels"], tile=32, tiles_per_epoch=12, augmentation=augmentation,
                  **{"batch_size": 4, "gap": 2, "split": SPLIT, **options})  # fmt: skip
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    return {
        int(k): i.numpy().tobytes() + m.numpy().tobytes()
        for b in loader
        for k, i, m in zip(b["index"], b["image"], b["mask"], strict=True)
    }


def test_tiles_come_from_seed_epoch_and_index_alone(files):
    alone = drawn(files)
    assert sorted(alone) == list(range(12))
    assert len(set(alone.values())) == 12
    assert drawn(files, num_workers=2, batch_size=3) == alone
    assert not set(drawn(files, seed=1).values()) & set(alone.values())


def test_every_tile_holds_something_labelled_and_every_labelled_pixel_is_as_likely():
    image = np.arange(40 * 90, dtype=np.uint32).reshape(40, 90)
    mask = np.full((40, 90), IGNORE, np.uint8)
    mask[3:7, 80:88] = 0
    small = np.zeros((10, 20), np.uint8)
    tiles = Tiles(
        [(image % 251).astype(np.uint8), small], [mask, np.full((10, 20), IGNORE, np.uint8)], None, 0, 32, 400
    )
    for k in range(50):
        _, tile, labels = tiles[k, 0]
        assert tile.shape == labels.shape == (32, 32)
        assert (labels != IGNORE).any()
    centre = np.zeros((1, 200), np.uint8)
    centre[0, :100] = IGNORE
    wide = Tiles([np.zeros((1, 200), np.uint8)], [centre], None, 0, 32, 2000)
    share = np.mean([(wide.pick(k, 0)[1] != IGNORE).mean() for k in range(2000)])
    assert 0.8 < share < 1  # only tiles near the border reach beyond it


def test_a_line_smaller_than_a_tile_is_mirrored():
    image = np.arange(20, dtype=np.uint8)[:, None] + np.zeros((1, 50), np.uint8)
    tile, _ = Tiles([image], [np.zeros_like(image)], None, 0, 32, 1).pick(0, 0)
    np.testing.assert_array_equal(tile[:, 0], [*range(6, 0, -1), *range(20), *range(18, 12, -1)])


# --- commands -------------------------------------------------------------------------------------------------------


def test_a_run_on_lines_is_trained_scored_and_evaluated(tmp_path, files):
    own = ("data=segy", f"data.amplitude={files['amplitude']}", f"data.labels={files['labels']}", "data.tile=32",
           "data.tiles_per_epoch=24", "data.gap=2", "optimizer.lr=0.1")  # fmt: skip
    # What TINY says of the synthetic data goes.
    call(train.main, "model=tiny", "trainer=cpu", "trainer.max_epochs=2", "loss=bce", "augmentation=seismic", *own,
         f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    run = Run(tmp_path / "run")
    metrics = run.metrics()
    assert metrics["dataset"] == "segy"
    assert (metrics["image_height"], metrics["image_width"]) == (32, 32)  # what predict cuts a survey into
    assert metrics["grain/vertical_50"] > 0
    assert metrics["status"] == "finished"
    table = pd.read_csv(run.path / "predictions.csv")
    assert table["id"].str.fullmatch(r"inline_01\d\d").all()
    assert table["group"].str.match("inlines 1").all()
    assert metrics["test/iou"] > 0.3
    call(evaluate.main, f"run={run.path}", "split=test", f"hydra.run.dir={tmp_path / 'again'}")
    assert Run(tmp_path / "again").metrics()["test/iou"] == pytest.approx(
        metrics["test/iou"], abs=2e-3
    )  # in bf16, maybe


def test_verify_and_show(tmp_path, files, capfd):
    report = verify(Survey(files["amplitude"], files["labels"], gap=2, split=SPLIT))
    assert report.problems == []
    assert report.facts["labels"].startswith("40 inlines, 100 to 139")
    assert report.facts["amplitude"].endswith("40 inlines, 50 crosslines, 60 samples at 4 from 100")
    own = ("data=segy", f"data.amplitude={files['amplitude']}", f"data.labels={files['labels']}")
    call(dataset.main, *own, "action=show", f"hydra.run.dir={tmp_path}")
    assert (tmp_path / "figures" / "samples.png").stat().st_size > 10_000


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (rectangle(99, 210, 220, 200, 240), r"labels inline 99, but .* has the inlines 100 to 139"),
        (rectangle(101, 210, 220, 0.2, 0.24), r"inline 101, body a covers no sample.*100 to 336.*ms or m"),
        (rectangle(101, 310, 320, 200, 240), r"covers no sample: it spans 310 to 320"),
        (rectangle(101, 210, 220, 200, 240)[:2], r"body a has 2 vertices"),
        (["101,2o1,200,a"], r"line 2: crossline is '2o1', expected a number"),
        (["101,201,,a"], r"line 2: a vertex takes both crossline and time"),
        ([",201,200,a"], r"line 2: inline is 'nan', expected a number"),
    ],
)
def test_polygons_that_do_not_fit_are_told(tmp_path, files, rows, says):
    with pytest.raises(SaltsegError, match=says):
        Survey(files["amplitude"], polygons(tmp_path / "salt.csv", *rows)).read()


def test_a_missing_column_is_named(tmp_path, files):
    with pytest.raises(SaltsegError, match=r"no column 'crossline'.*There is: .*xline"):
        Survey(files["amplitude"], polygons(tmp_path / "s.csv", "1,2,3,a", columns="inline,xline,time,body")).read()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"test_lines": [139], "val_lines": [130], "train_lines": [90]}, r"data\.train_lines: .* has no inline 90"),
        ({"lines": [100, 99]}, r"data\.lines: .* has no inline 99"),
        ({"train_lines": [110]}, r"data\.val_lines must be given, too"),
        ({"test_lines": [139], "val_lines": [130], "train_lines": [130]}, r"130 is named twice"),
        ({"direction": "diagonal"}, r"data\.direction=diagonal"),
        ({"tile": 10}, r"data\.tile=10: expected a whole number from 32 on"),
        ({"labelled": {"z": [300]}}, r"data\.labelled\.z"),
        ({"labelled": {"z": [1000, 2000]}}, r"labels no live sample of any inline"),
        ({"keys": {"xline": 193}}, r"data\.keys=xline"),
    ],
)
def test_options_that_do_not_fit_are_told(files, options, says):
    with pytest.raises(SaltsegError, match=says):
        Survey(files["amplitude"], files["labels"], **options).read()


def test_a_listed_line_without_labels_is_told(tmp_path, files):
    rows = polygons(tmp_path / "s.csv", *rectangle(110, 210, 220, 200, 240), "112,,,")
    with pytest.raises(SaltsegError, match=r"data\.test_lines: inline 120 is not labelled.*no salt"):
        Survey(files["amplitude"], rows, train_lines=[110], val_lines=[112], test_lines=[120]).read()
    with pytest.raises(SaltsegError, match=r"data\.lines: inline 111 is not labelled"):
        Survey(files["amplitude"], rows, lines=[110, 111, 112]).read()


def test_labels_of_another_geometry_are_told(tmp_path, files):
    other = write(tmp_path / "other.sgy", salt()[:, :, :50])
    with pytest.raises(SaltsegError, match=r"other\.sgy has 50 samples at 4 from 100, 40 inlines; .* has 60 samples"):
        Survey(files["amplitude"], other).read()
    shifted = write(tmp_path / "shifted.sgy", salt(), crosslines=range(210, 260))
    with pytest.raises(SaltsegError, match=r"inline 100 has a trace 250, which the amplitudes lack"):
        Survey(files["amplitude"], shifted).read()


def test_a_missing_file_is_one_message(tmp_path, files, capfd):
    own = ("data=segy", f"data.amplitude={tmp_path / 'no.sgy'}", f"data.labels={files['labels']}")
    assert "no.sgy" in failure(capfd, dataset.main, *own, "action=verify", f"hydra.run.dir={tmp_path / 'v'}")


def test_without_segyio_the_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "segyio", None)
    with pytest.raises(SaltsegError, match=r"pip install 'saltseg\[segy\]'"):
        Survey(files["amplitude"], files["labels"]).read()
