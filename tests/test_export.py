"""One file holds the preparation, the network and the sigmoid, for any size, and says what it is."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from runs import call, failure, files, shell, tiny_run
from small import make_images, small_net

from saltseg import __version__, export
from saltseg.backends import onnxruntime_of, to_onnx
from saltseg.components import instantiate
from saltseg.data.prepare import Fit
from saltseg.export import TOLERANCE, Whole, batches, difference
from saltseg.inference import TTA, Predictor, load_net
from saltseg.module import SaltNet
from saltseg.run import Run

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

EXAMPLE = Path(__file__).parents[1] / "docs" / "onnx_example.py"


def exported(nets: Sequence[SaltNet], fit: Fit, tta: TTA) -> bytes:
    return to_onnx(Whole(nets, fit, tta), torch.zeros(2, 1, 101, 75, dtype=torch.uint8), "probability")


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("normalize", ["imagenet", "tile"])
@pytest.mark.parametrize(("tta", "members"), [("none", 1), ("hflip", 2)])
def test_the_file_does_what_the_predictor_does(fit: Fit, normalize: Any, tta: TTA, members: int) -> None:
    nets = [SaltNet(small_net(seed), normalize) for seed in range(members)]
    predictor = Predictor(nets, fit=fit, tta=tta)
    # 243 and 606: there OpenCV's weights are halfway between two 256ths.
    images = make_images([(101, 101), (60, 40), (33, 200), (128, 96), (1, 1), (2, 3), (31, 300), (243, 606)]).images
    assert np.ptp(predictor(images)[0]) > 0.1
    # Back from 608 to 606 columns, ONNX Runtime finds its place in float32.
    assert difference(exported(nets, fit, tta), predictor, images) < (1e-5 if fit == "pad" else 5e-5)


def test_the_check_sees_all_batches_and_sizes() -> None:
    images = make_images([(101, 101), (40, 60)]).images
    shapes = [batch.shape for batch in batches(images)]
    assert shapes[:2] == [(1, 101, 101), (1, 40, 60)]
    assert {s[0] for s in shapes} == {1, 3, 8}
    assert {s[1:] for s in shapes} >= {(101, 101), (64, 96), (33, 200), (150, 131), (11, 5)}
    model = exported([SaltNet(small_net(0))], "pad", "none")
    assert difference(model, Predictor([SaltNet(small_net(1))]), images) > TOLERANCE
    assert difference(model, Predictor([SaltNet(small_net(0))], fit="resize"), images) > TOLERANCE


@pytest.mark.openvino
def test_openvino_reads_the_file_too() -> None:
    openvino = pytest.importorskip("openvino")
    nets, images = [SaltNet(small_net())], make_images([(101, 101), (60, 40)]).images
    core = openvino.Core()
    model = core.read_model(exported(nets, "pad", "hflip"))
    run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image, expected in zip(images, Predictor(nets, tta="hflip")(images), strict=True):
        given = run(image[None, None])[0][0, 0]
        np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("exported") / "run", "tta=hflip", "threshold=0.45", "weights=last")


@pytest.fixture
def altered(run: Run, tmp_path: Path) -> Callable[..., Run]:
    """A copy of the run with something else in its configuration."""

    def make(name: str, **changes: Any) -> Run:
        copy = Run(shutil.copytree(run.path, tmp_path / name))
        config = copy.config()
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value)
        copy.write_config(OmegaConf.to_container(config))  # type: ignore[arg-type]
        return copy

    return make


def made(directory: Path, *arguments: object) -> Path:
    call(export.main, f"hydra.run.dir={directory}", *arguments)
    return directory / "model.onnx"


def expected_of(run: Run, **options: Any) -> list[Any]:
    test = instantiate(run.config().data).part("test")
    return Predictor([load_net(run, "last")], **options)(test.images)


def test_a_run_becomes_a_file_that_says_what_it_is(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    file = made(tmp_path / "job", f"run={run.path}")
    said = capfd.readouterr()
    assert (said.out.count("\n"), said.err) == (1, "")
    assert all(word in said.out for word in ("model.onnx", "MB", "from PyTorch", "8 test images of synthetic"))
    assert [name for name in files(tmp_path / "job") if name.endswith((".onnx", ".data", ".partial"))] == ["model.onnx"]

    session = ort.InferenceSession(file)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(uint8)", ["batch", 1, "height", "width"])
    assert (result.name, result.type, result.shape) == ("probability", "tensor(float)", ["batch", 1, "height", "width"])
    model, metrics = session.get_modelmeta(), run.metrics()
    assert model.producer_name == "saltseg"
    assert "0…255" in model.description
    about = model.custom_metadata_map
    for key in ("val/iou", "val/map", "test/iou", "test/map", "threshold", "threshold_best"):
        assert float(about[key]) == metrics[key]
    assert float(about["threshold"]) == 0.45
    assert json.loads(about["classes"]) == ["background", "salt"]
    assert about["dataset"] == "synthetic"
    assert about["saltseg_version"] == __version__
    assert about["licence"] == "Apache-2.0"
    assert (about["tta"], about["weights"], about["run"]) == ("hflip", "last", "/".join(run.path.parts[-2:]))
    assert float(about["checked_max_difference"]) < 1e-5
    assert "scores" not in about

    images = instantiate(run.config().data).part("test").images
    maps = onnxruntime_of(file.read_bytes())(np.stack(images)[:, None])[:, 0]
    np.testing.assert_allclose(maps, np.stack(expected_of(run, tta="hflip")), atol=1e-5)


def test_the_example_is_all_that_it_takes(run: Run, tmp_path: Path) -> None:
    file = made(tmp_path / "job", f"run={run.path}")
    image = instantiate(run.config().data).part("test").images[0]
    np.save(tmp_path / "image.npy", image)
    done = shell(EXAMPLE, file, "image.npy", "probability.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    probability = np.load(tmp_path / "probability.npy")
    np.testing.assert_allclose(probability, expected_of(run, tta="hflip")[0], atol=1e-5)
    assert done.stdout == f"{(probability > 0.45).mean():.1%} salt\n"
    code = [line for line in EXAMPLE.read_text().split('"""')[2].splitlines() if line]
    assert len(code) <= 11
    assert {line.split()[1] for line in code if line.startswith("import")} == {"sys", "numpy", "onnxruntime"}


def test_what_is_asked_for_stands_in_the_file_instead(run: Run, altered: Callable[..., Run], tmp_path: Path) -> None:
    plain = made(tmp_path / "plain", f"run={run.path}", "tta=none")
    about = ort.InferenceSession(plain).get_modelmeta().custom_metadata_map
    assert (about["tta"], about["scores"]) == ("none", "measured with weights=last and tta=hflip")
    images = instantiate(run.config().data).part("test").images
    maps = onnxruntime_of(plain.read_bytes())(np.stack(images)[:, None])[:, 0]
    np.testing.assert_allclose(maps, np.stack(expected_of(run)), atol=1e-5)

    tile = altered("tile", data__normalize="tile", threshold=0.3)
    both = made(tmp_path / "both", f"run=[{run.path},{tile.path}]", "tta=none")
    about = ort.InferenceSession(both).get_modelmeta().custom_metadata_map
    assert about["scores"].startswith("none")
    assert not [key for key in about if "/" in key]
    assert about["normalize"] == "imagenet, tile"
    mean = (np.stack(expected_of(run)) + np.stack(expected_of(tile))) / 2
    np.testing.assert_allclose(onnxruntime_of(both.read_bytes())(np.stack(images)[:, None])[:, 0], mean, atol=1e-5)


def test_without_its_data_a_run_is_checked_on_synthetic_images(
    altered: Callable[..., Run], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    moved = altered("moved", data__fit="resize", data__root=str(tmp_path / "nowhere"))
    config = OmegaConf.to_container(moved.config())
    config["data"]["_target_"] = "saltseg.data.tgs.TGS"  # type: ignore[call-overload,index]
    del config["data"]["data_seed"]  # type: ignore[call-overload,union-attr]
    moved.write_config(config)  # type: ignore[arg-type]
    capfd.readouterr()
    file = made(tmp_path / "job", f"run={moved.path}")
    said = capfd.readouterr().out
    assert str(tmp_path / "nowhere") in said.replace("\n", "")
    assert "32 synthetic images" in said
    about = ort.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert about["fit"] == "resize"
    assert "32 synthetic images" in about["checked"]


def test_an_output_that_exists_is_kept(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "kept" / "salt.onnx"
    output.parent.mkdir()
    output.write_text("mine")
    arguments = (f"run={run.path}", f"output={output}")
    said = failure(capfd, export.main, *arguments, f"hydra.run.dir={tmp_path / 'a'}")
    assert all(word in said for word in ("output", str(output), "overwrite=true")), said
    assert output.read_text() == "mine"
    said = failure(capfd, export.main, f"run={run.path}", f"output={tmp_path}", f"hydra.run.dir={tmp_path / 'b'}")
    assert "is a directory" in said
    made(tmp_path / "c", *arguments, "overwrite=true")
    assert files(output.parent) == ["salt.onnx"]
    ort.InferenceSession(output)


def test_an_export_that_is_wrong_is_not_written(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "difference", lambda *_: 0.2)
    said = failure(capfd, export.main, f"run={run.path}", f"hydra.run.dir={tmp_path / 'job'}")
    assert all(word in said for word in ("doesn't agree with PyTorch", "0.2", "8 test images"))
    assert not list(tmp_path.rglob("*.onnx*"))


def test_what_can_be_mended_is_said(
    run: Run,
    altered: Callable[..., Run],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(*arguments: object) -> str:
        return failure(capfd, export.main, *arguments, f"hydra.run.dir={tmp_path / 'job'}")

    assert "run must be given" in said()
    assert "not a run" in said(f"run={tmp_path}")
    stopped = altered("stopped")
    stopped.write_metrics({"status": "interrupted"})
    assert "did not finish" in said(f"run={stopped.path}")
    resized = altered("resized", data__fit="resize")
    assert "data.fit=resize" in said(f"run=[{run.path},{resized.path}]")
    (tmp_path / "file").touch()
    assert "can't be written" in said(f"run={run.path}", f"output={tmp_path / 'file' / 'model.onnx'}")
    for package in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert f"needs {package}: pip install 'saltseg[export]'" in said(f"run={run.path}")
    assert not list(tmp_path.rglob("*.onnx*"))


def test_images_are_stretched_to_the_same_bits_everywhere() -> None:
    """What makes an export of data.fit=resize exact: OpenCV's own INTER_LINEAR is not the same in all its builds."""
    image = np.array([[0, 255]], np.uint8)
    weights = (np.arange(8) + 0.5) / 4 - 0.5
    known = np.floor(np.clip(weights, 0, 1) * 255 + 0.5)
    assert np.array_equal(cv2.resize(image, (8, 1), interpolation=cv2.INTER_LINEAR_EXACT)[0], known)
