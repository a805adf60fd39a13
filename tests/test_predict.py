"""A run is used: on images of all kinds, on Kaggle's test set, after a stop, on a full disk."""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import survey_check
from runs import TINY, call, failure, files, tiny_run
from small import smooth
from survey_maker import Recipe, write

from saltseg import inference, predict, train
from saltseg.calibration import temper
from saltseg.data import rle
from saltseg.data.amplitude import live, stretch
from saltseg.data.folder import to_image
from saltseg.data.segy import Segy
from saltseg.files import write_whole
from saltseg.hardware import Hardware
from saltseg.inference import Predictor, load_net
from saltseg.prediction import products
from saltseg.run import Run
from saltseg.uncertainty import entropy, mutual_information, uncertainty

SIZES = {"a": (101, 101), "b": (60, 40), "c": (150, 333), "d": (101, 101)}


@pytest.fixture(autouse=True)
def _one_arithmetic(monkeypatch):
    monkeypatch.setattr(inference, "detect", lambda: Hardware("cpu", "32-true", "contiguous", "for the test"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("used") / "run", "threshold=0.45", "tta=hflip", "trainer.max_epochs=2")


def png(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), pixels)
    return file


@pytest.fixture
def images(tmp_path):
    """A folder of images; no two tests share one."""
    for k, (name, shape) in enumerate(SIZES.items()):
        png(tmp_path / "images" / f"{name}.png", smooth(shape, k))
    return tmp_path / "images"


def predicted(run, source, output, *overrides):
    call(predict.main, f"run={run.path}", f"input={source}", f"output={output}", *overrides)
    return pd.read_csv(output / "predictions.csv", dtype={"id": str}).set_index("id")


def expected(run, *shown):
    """What the run's network says of images, by the way that evaluation takes."""
    predictor = Predictor([load_net(run, "best")], tta="hflip", image_size=(101, 101))
    return predictor(list(shown))


def read(file):
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_a_folder_gives_masks_overlays_and_a_table(run, images, tmp_path, capfd):
    table = predicted(run, images, tmp_path / "out")
    assert set(files(tmp_path / "out")) == {
        *(f"{kind}/{name}.png" for kind in ("masks", "overlays") for name in SIZES),
        "predictions.csv",
        "predict.yaml",
    }
    assert "4 images in" in capfd.readouterr().out
    assert table.index.tolist() == list(SIZES)
    for name, probability in zip(SIZES, expected(run, *(read(images / f"{n}.png") for n in SIZES)), strict=True):
        mask = read(tmp_path / "out" / "masks" / f"{name}.png")
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, np.where(probability > 0.45, 255, 0))
        assert table.loc[name, "salt"] == pytest.approx((mask > 0).mean())
        assert table.loc[name, "probability"] == pytest.approx(probability.mean(), abs=1e-6)
        assert (table.loc[name, "height"], table.loc[name, "width"]) == SIZES[name]


def test_probabilities_as_16_bit_and_as_numbers(run, images, tmp_path):
    predicted(run, images, tmp_path / "out", "format=[probability,npy]")
    (probability,) = expected(run, read(images / "c.png"))
    numbers = np.load(tmp_path / "out" / "npy" / "c.npy")
    assert numbers.dtype == np.float32
    assert np.abs(numbers - probability).max() < 1e-6
    png16 = read(tmp_path / "out" / "probability" / "c.png")
    assert png16.dtype == np.uint16
    assert np.abs(png16 / 65535 - probability).max() < 1e-5


def test_uncertainty_of_pixels_and_of_the_image(run, images, tmp_path):
    own = run.metrics()["temperature"]
    table = predicted(run, images / "a.png", tmp_path / "out", "format=[entropy,probability]", "calibrate=true")
    (probability,) = expected(run, read(images / "a.png"))
    assert np.abs(read(tmp_path / "out/entropy/a.png") / 65535 - entropy(probability, own)).max() < 1e-4
    assert np.abs(read(tmp_path / "out/probability/a.png") / 65535 - temper(probability, own)).max() < 1e-4
    assert table.loc["a", "uncertainty"] == pytest.approx(uncertainty(probability, 0.45, own), abs=1e-4)
    assert table.loc["a", "salt"] == (probability > 0.45).mean()  # predicted is what the untempered one says
    other = predicted(run, images / "a.png", tmp_path / "other", "temperature=3")
    assert other.loc["a", "uncertainty"] == pytest.approx(uncertainty(probability, 0.45, 3), abs=1e-4)


@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.openvino)])
def test_another_backend_gives_the_same(run, images, tmp_path, backend):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    torch, other = (predicted(run, images, tmp_path / b, f"backend={b}", "format=npy") for b in ("torch", backend))
    for name in SIZES:
        first, second = (np.load(tmp_path / b / "npy" / f"{name}.npy") for b in ("torch", backend))
        assert np.abs(first - second).max() < 1e-5
    assert np.abs(torch["salt"] - other["salt"]).max() < 1e-3


def test_without_a_place_named_it_goes_where_runs_go(run, images, tmp_path):
    directory = tmp_path / "predicted"
    call(predict.main, f"run={run.path}", f"input={images / 'a.png'}", f"hydra.run.dir={directory}")
    assert {"predictions.csv", "masks/a.png", "overlays/a.png"} <= set(files(directory))


def test_other_settings_are_obeyed(run, images, tmp_path):
    table = predicted(run, images / "a.png", tmp_path / "out", "threshold=0.9", "tta=none", "weights=last")
    probability = Predictor([load_net(run, "last")])([read(images / "a.png")])[0]
    assert table.loc["a", "salt"] == (probability > 0.9).mean()
    assert table.loc["a", "probability"] == pytest.approx(probability.mean(), abs=1e-6)


def test_images_of_every_kind(run, tmp_path):
    folder, grey = tmp_path / "images", smooth((101, 101), 0)
    deep = (smooth((101, 101), 1).astype(np.uint16) + 7) * 200
    png(folder / "grey.png", grey)
    png(folder / "rgb.bmp", np.dstack([grey] * 3))
    png(folder / "deep.png", deep)
    png(folder / "deep2.tif", deep)
    png(folder / "float.tiff", deep.astype(np.float32) / 1e6)
    png(folder / "lines" / "one.jpg", grey)
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "notes.txt").write_text("not an image")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in files(folder):
            archive.write(folder / name, f"images/{name}")
    out, zipped = tmp_path / "out", tmp_path / "zipped"
    table = predicted(run, folder, out)
    assert table.index.tolist() == ["deep", "deep2", "float", "grey", "lines/one", "rgb"]
    probabilities = expected(run, grey, to_image(deep, Path("deep.png")))
    for names, probability in zip((("grey", "rgb"), ("deep", "deep2", "float")), probabilities, strict=True):
        for name in names:
            assert np.array_equal(read(out / "masks" / f"{name}.png") > 0, probability > 0.45)
    pd.testing.assert_frame_equal(predicted(run, tmp_path / "all.zip", zipped), table)
    assert (out / "masks" / "lines" / "one.png").is_file()


def test_sections_in_numpy_files(run, tmp_path):
    section = np.random.default_rng(0).normal(size=(140, 260)).astype(np.float32) * 1e4
    tile = section[:101, :101]
    np.save(tmp_path / "one.npy", tile)
    np.save(tmp_path / "bytes.npy", smooth((101, 101), 3))
    np.savez(tmp_path / "cube.npz", np.stack([section, section[::-1]]))
    table = predicted(run, tmp_path / "one.npy", tmp_path / "out1")
    # One section of a tile's size is stretched as a whole, as any other image is.
    (probability,) = expected(run, to_image(tile, Path("one.npy")))
    assert np.abs(np.load(tmp_path / "out1" / "npy" / "one.npy") - probability).max() < 1e-5
    assert table.loc["one", "height"] == 101
    predicted(run, tmp_path / "bytes.npy", tmp_path / "out2")
    (probability,) = expected(run, smooth((101, 101), 3))
    assert np.abs(np.load(tmp_path / "out2" / "npy" / "bytes.npy") - probability).max() < 1e-6
    assert predicted(run, tmp_path / "cube.npz", tmp_path / "out3").index.tolist() == ["cube_0", "cube_1"]


def test_an_ensemble_is_the_mean_and_says_where_its_members_disagree(run, images, tmp_path):
    others = [tiny_run(tmp_path / f"run{s}", f"seed={s}", "trainer.max_epochs=1") for s in (1, 2)]
    named = ",".join(str(r.path) for r in (run, *others))
    call(
        predict.main,
        f"run=[{named}]",
        f"input={images / 'a.png'}",
        f"output={tmp_path / 'out'}",
        "format=[npy,disagreement]",
    )
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("id")
    image = read(images / "a.png")
    single = [Predictor([load_net(r, "best")], tta="hflip")([image])[0] for r in (run, *others)]
    assert np.abs(np.load(tmp_path / "out" / "npy" / "a.npy") - np.mean(single, axis=0)).max() < 1e-6
    bits = mutual_information(np.stack(single))
    assert table.loc["a", "disagreement"] == pytest.approx(bits.mean(), abs=1e-5)
    assert np.abs(read(tmp_path / "out/disagreement/a.png") / 65535 - bits).max() < 1e-4
    assert "disagreement" not in predicted(run, images / "a.png", tmp_path / "alone")


def test_a_sweep_stands_for_all_its_trainings(images, tmp_path):
    sweep = tmp_path / "sweep"
    call(train.main, "-m", *TINY, "trainer.max_epochs=1", "seed=1,2", "threshold=0.4,0.5", f"hydra.sweep.dir={sweep}")
    call(predict.main, f"run={sweep}", f"input={images / 'a.png'}", f"output={tmp_path / 'out'}", "format=npy")
    runs = [Run(path) for path in sorted(sweep.glob("*threshold-0.4"))]
    assert len(runs) == 2
    single = [Predictor([load_net(r, "best")])([read(images / "a.png")])[0] for r in runs]
    assert np.abs(np.load(tmp_path / "out" / "npy" / "a.npy") - np.mean(single, axis=0)).max() < 1e-6


def competition(folder, names, asked=None):
    """``test.zip`` and ``sample_submission.csv`` as Kaggle has them."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "test.zip", "w") as archive:
        for k, name in enumerate(names):
            image = np.zeros((101, 101), np.uint8) if k == 0 else smooth((101, 101), k)
            archive.writestr(f"images/{name}.png", cv2.imencode(".png", image)[1].tobytes())
    pd.DataFrame({"id": asked or names, "rle_mask": "1 1"}).to_csv(folder / "sample_submission.csv", index=False)
    return folder


@pytest.mark.parametrize("source", ["tgs/test.zip", "tgs"])
def test_a_submission_for_kaggle(run, tmp_path, source):
    names = ["00fe", "zz", "10", "007"]
    competition(tmp_path / "tgs", names)
    table = predicted(run, tmp_path / source, tmp_path / "out", "format=[kaggle,mask]")
    text = (tmp_path / "out" / "submission.csv").read_bytes().decode()
    lines = text.split("\n")
    assert lines[0] == "id,rle_mask"
    assert lines[-1] == ""
    assert [line.partition(",")[0] for line in lines[1:-1]] == names
    for name, code in (line.split(",") for line in lines[1:-1]):
        mask = read(tmp_path / "out" / "masks" / f"{name}.png") > 0
        assert np.array_equal(rle.decode(code, (101, 101)), mask)
    assert "rle_mask" not in table
    assert table.index.tolist() == sorted(names)


RECIPES = {
    "line": Recipe(line=True, format=1, dead=0.05, delay=100),
    "cube": Recipe(format=5, endian="little", order="crossline", text="ascii", missing=0.1),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_survey_comes_back_with_its_headers(run, tmp_path, kind, capfd):
    pytest.importorskip("segyio")
    amplitudes = np.random.default_rng(0).normal(size=(1 if kind == "line" else 6, 70, 130)).cumsum(-1)
    write(tmp_path / "made.sgy", amplitudes.astype(np.float32), RECIPES[kind])
    options = ("segy.mask=true", "segy.points=true", "segy.resample=none")
    arguments = (f"run={run.path}", f"input={tmp_path / 'made.sgy'}", f"output={tmp_path / 'out'}", *options)
    call(predict.main, *arguments)
    for name in ("made_salt", "made_salt_mask"):
        differing = survey_check.headers(tmp_path / "made.sgy", tmp_path / "out" / f"{name}.sgy")
        assert differing == {"trace headers": 0, "text lines": 1, "binary bytes": 0}
    with Segy.open(tmp_path / "made.sgy") as before, Segy.open(tmp_path / "out" / "made_salt.sgy") as after:
        for number in before.numbers("inline"):
            section, found = before.section("inline", number), after.section("inline", number)
            alive = live(section.amplitude, before.dead[section.traces])
            grey = stretch(np.where(alive, section.amplitude, 0), alive, (101, 101))
            wanted = np.where(alive, expected(run, grey)[0], -1)
            # An IBM float has 21 to 24 bits.
            assert np.abs(found.amplitude - wanted).max() < 1e-5
    row = pd.read_csv(tmp_path / "out" / "made_salt.csv").iloc[0]
    assert row["id"] == "made"
    assert 0 <= row["salt"] <= 1
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    assert "overwrite=true" in failure(capfd, predict.main, *arguments)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")} == before
    assert "format=mask" in failure(capfd, predict.main, *arguments, "overwrite=true", "format=mask")

    plain, mask = ((tmp_path / "out" / f"{name}.sgy").read_bytes() for name in ("made_salt", "made_salt_mask"))
    call(predict.main, *arguments, "overwrite=true", "calibrate=true", "temperature=3")
    assert (tmp_path / "out" / "made_salt_mask.sgy").read_bytes() == mask
    assert (tmp_path / "out" / "made_salt.sgy").read_bytes() != plain


@pytest.mark.parametrize("content", [b"", b"hello", b"C 1 CLIENT" * 400], ids=["empty", "short", "text"])
def test_a_file_that_is_no_survey_is_refused(run, tmp_path, capfd, content):
    pytest.importorskip("segyio")
    (tmp_path / "made.sgy").write_bytes(content)
    arguments = (f"run={run.path}", f"input={tmp_path / 'made.sgy'}", f"output={tmp_path / 'out'}")
    assert "made.sgy" in failure(capfd, predict.main, *arguments)
    assert not list((tmp_path / "out").glob("*.sgy"))


def test_an_empty_mask_is_an_empty_code(tmp_path):
    table = pd.DataFrame({"id": ["b", "a"], "height": 3, "width": 3, "salt": [0.0, 2 / 9], "rle_mask": ["", "2 2"]})
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("id,rle_mask\na,1 1\nb,1 1\n")
    assert products.submission(table, sample).to_csv(index=False) == "id,rle_mask\na,2 2\nb,\n"


@pytest.mark.parametrize(
    ("asked", "says"), [(["a", "b", "c"], "1 images were not predicted"), (["a"], "1 images are not asked for")]
)
def test_a_submission_of_other_images_is_not_written(run, tmp_path, capfd, asked, says):
    competition(tmp_path / "tgs", ["a", "b"], asked)
    arguments = (f"run={run.path}", f"input={tmp_path / 'tgs/test.zip'}", f"output={tmp_path / 'out'}", "format=kaggle")
    assert says in failure(capfd, predict.main, *arguments)
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_a_code_that_is_not_the_masks_is_noticed(tmp_path):
    table = pd.DataFrame({"id": ["a"], "height": 3, "width": 3, "salt": [1 / 9], "rle_mask": ["2 2"]})
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("id,rle_mask\na,1 1\n")
    with pytest.raises(products.SaltsegError, match="the code of a has 2 pixels"):
        products.submission(table, sample)


def test_without_the_sample_there_is_no_submission(run, images, tmp_path, capfd):
    arguments = (f"run={run.path}", f"input={images}", f"output={tmp_path / 'out'}", "format=kaggle")
    assert "expected sample_submission.csv" in failure(capfd, predict.main, *arguments)


def test_one_broken_image_among_many_is_named_and_the_others_are_done(run, images, tmp_path, capfd):
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    arguments = (f"run={run.path}", f"input={images}", f"output={tmp_path / 'out'}")
    said = failure(capfd, predict.main, *arguments)
    assert "1 of 4 images can't be read" in said
    assert "b.png is truncated" in said
    assert files(tmp_path / "out" / "masks") == ["a.png", "c.png", "d.png"]
    assert not (tmp_path / "out" / "predictions.csv").exists()
    before = (tmp_path / "out" / "masks" / "a.png").stat().st_mtime_ns
    (images / "b.png").write_bytes(whole)
    assert predicted(run, images, tmp_path / "out").index.tolist() == list(SIZES)
    assert (tmp_path / "out" / "masks" / "a.png").stat().st_mtime_ns == before


def test_an_interrupted_prediction_goes_on_and_ends_as_an_uninterrupted_one(run, images, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ("format=[mask,npy]", "batch_size=1")
    monkeypatch.setattr(predict, "BATCHES", 1)
    predicted(run, images, whole, *options)
    seen = []

    def stop_at_third(self, shown, original=Predictor.predict):
        seen.append(len(shown))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(self, shown)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", stop_at_third)
        with pytest.raises(SystemExit) as stop:
            predicted(run, images, stopped, *options)
    assert stop.value.code == 130
    assert files(stopped / "masks") == ["a.png", "b.png"]
    assert not (stopped / "predictions.csv").exists()
    with (stopped / "predictions.partial.csv").open("a") as journal:
        journal.write("c,150")  # what a machine that goes down in the middle of a line leaves
    before = (stopped / "masks" / "a.png").stat().st_mtime_ns
    predicted(run, images, stopped, *options)
    assert (stopped / "masks" / "a.png").stat().st_mtime_ns == before
    assert files(stopped) == files(whole)
    for name in files(whole):
        if name != "predict.yaml":
            assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_a_prediction_that_was_begun_otherwise_is_not_gone_on_with(run, images, tmp_path, capfd):
    (images / "b.png").write_bytes(b"")
    arguments = (f"run={run.path}", f"input={images}", f"output={tmp_path / 'out'}")
    failure(capfd, predict.main, *arguments)
    assert "begun with other settings" in failure(capfd, predict.main, *arguments, "threshold=0.7")


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(run, images, tmp_path, capfd):
    out = tmp_path / "out"
    predicted(run, images, out)
    mine = png(out / "masks" / "mine.png", smooth((5, 5), 0))
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    arguments = (f"run={run.path}", f"input={images}", f"output={out}")
    assert "overwrite=true" in failure(capfd, predict.main, *arguments)
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before
    (images / "d.png").unlink()
    assert predicted(run, images, out, "overwrite=true").index.tolist() == ["a", "b", "c"]
    assert not (out / "masks" / "d.png").exists()
    assert mine.exists()
    assert "holds something else" in failure(capfd, predict.main, *arguments[:2], f"output={images}")
    assert files(images) == ["a.png", "b.png", "c.png"]


def test_a_full_disk_is_said_and_leaves_nothing_half_written(run, images, tmp_path, capfd, monkeypatch):
    written = []

    def fill_up(self, content, original=Path.write_bytes):
        if self.name.startswith(".b.png"):
            original(self, content[:10])
            written.append(self)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, content)

    arguments = (f"run={run.path}", f"input={images}", f"output={tmp_path / 'out'}", "format=mask", "batch_size=1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_up)
        said = failure(capfd, predict.main, *arguments)
    assert "masks/b.png can't be written: No space left on device" in said
    assert written
    assert not any("b.png" in name for name in files(tmp_path / "out"))
    assert predicted(run, images, tmp_path / "out", "format=mask", "batch_size=1").index.tolist() == list(SIZES)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    write_whole(file, "old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(products.SaltsegError, match=r"folder can't be written"):
        write_whole(tmp_path / "folder", b"new")
    assert files(tmp_path) == ["a.txt"]


def without(run, tmp_path, key):
    copied = Run(shutil.copytree(run.path, tmp_path / "copy"))
    copied.write_metrics({k: v for k, v in copied.metrics().items() if k != key})
    return f"run={copied.path}"


MISTAKES = {
    "no such input": (("input={tmp}/nowhere",), "does not exist"),
    "an empty folder": (("input={tmp}/empty",), "has no images in it"),
    "a text file": (("input={tmp}/notes.txt",), "of no kind that is known"),
    "objects": (("input={tmp}/objects.npy",), "can't be read as an array"),
    "a line of numbers": (("input={tmp}/line.npy",), "expected numbers"),
    "two of a stem": (("input={tmp}/twins",), "one stem"),
    "a format that isn't": (("format=png",), "format"),
    "too few to disagree": (("format=disagreement",), "1 networks, expected 3"),
    "segy of images": (("format=segy",), "format"),
    "a backend that isn't": (("backend=tensorrt",), "backend"),
    "a threshold beyond": (("threshold=1.5",), "expected a number between 0 and 1"),
    "an overlap beyond": (("overlap=1",), "overlap=1"),
    "no run": (("run={tmp}",), "is not a run"),
    "another key": (("+inputs=3",), "there is no such key"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_answered_in_words(run, images, tmp_path, capfd, what):
    overrides, says = MISTAKES[what]
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    for suffix in (".png", ".bmp"):
        png(tmp_path / "twins" / f"a{suffix}", smooth((9, 9), 0))
    given = {"run": f"run={run.path}", "input": f"input={images}", "output": f"output={tmp_path / 'out'}"}
    for override in (o.format(tmp=tmp_path) for o in overrides):
        given[override.partition("=")[0]] = override
    assert says in failure(capfd, predict.main, *given.values())
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_a_run_from_before_sizes_were_kept_says_what_to_do(run, images, tmp_path, capfd):
    said = failure(capfd, predict.main, without(run, tmp_path, "image_height"), f"input={images}")
    assert "ckpt_path=" in said
