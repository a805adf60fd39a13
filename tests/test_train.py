import itertools

import numpy as np
import pandas as pd
import pytest
import tgs_trees
import torch
from omegaconf import OmegaConf
from PIL import Image
from runs import SHARED, TINY, assert_equal_history, assert_equal_weights, call, files, tiny_run

from saltseg import train
from saltseg.command import app
from saltseg.components import instantiate
from saltseg.metrics import CURVE, SCORES, Counts, best_threshold
from saltseg.run import Run

FILES = {
    *(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")),
    *(f"checkpoints/{name}.ckpt" for name in ("best", "last")),
    *(f"figures/{name}.png" for name in ("samples", "batch", "curves", "thresholds", "predictions")),
    *(f"figures/{name}.png" for name in ("reliability", "uncertainty")),
    *(f"{name}.csv" for name in ("history", "predictions", "split", "thresholds", "uncertainty")),
    *("config.yaml", "environment.json", "metrics.json", "scores.npz", "train.log"),
}
COLUMNS = {
    "split.csv": "id,split",
    "history.csv": "epoch,loss_name,lr,train/loss,val/loss,val/iou,val/dice,val/map,images_per_second,seconds",
    "thresholds.csv": "threshold,iou,dice,map,micro_iou,precision,recall",
    "predictions.csv": "id,split,fold,group,iou,dice,ap,salt,predicted,depth,suspect,uncertainty,boundary",
    "uncertainty.csv": "split,images,count,by,iou,iou_kept,gain,gain_low,gain_high,"
    "over_boundary,over_boundary_low,over_boundary_high",
}
CONFIDENCE = ("ece", "ece_tempered", *(f"{s}_kept80{b}" for s in ("iou", "iou_salt") for b in ("", "_boundary")))
ABOUT = ("threshold", "threshold_best", "temperature", "weights", "tta", "encoder_init", "dataset", "trained_by")
ABOUT += ("train_seconds", "images_per_second", "image_height", "image_width", "status")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("shared") / "run", *SHARED)


def test_a_run_leaves_every_file_of_the_contract_and_nothing_else(run):
    assert set(files(run.path)) == FILES


@pytest.mark.parametrize(("file", "columns"), COLUMNS.items())
def test_the_tables_have_the_columns_of_the_contract(run, file, columns):
    assert (run.path / file).read_text().partition("\n")[0] == columns


def test_the_metrics_are_flat_and_complete(run):
    parts = [part + suffix for part, suffix in itertools.product(("val", "test", "heldout"), ("", "_best"))]
    metrics = run.metrics()
    known = {f"{part}/{key}" for part, key in itertools.product(("val", "test"), CONFIDENCE)}
    scores = {f"{part}/{score}" for part, score in itertools.product(parts, SCORES)}
    grain = {f"grain/{axis}_{q}" for axis, q in itertools.product(("vertical", "horizontal"), ("05", "50", "95"))}
    assert metrics.keys() == scores | known | grain | {*ABOUT}
    assert metrics["status"] == "finished"
    assert metrics["dataset"] == "synthetic"
    assert metrics["encoder_init"] == "random"
    assert (metrics["threshold"], metrics["weights"]) == (0.5, "best")


def test_the_configuration_is_plain_and_enough_to_rebuild_the_run(run):
    text = run.config_file.read_text()
    assert "${" not in text
    assert str(run.path) not in text
    config = OmegaConf.load(run.config_file)
    assert config.choices.loss == "bce_lovasz"
    assert config.choices.data == "synthetic"
    assert instantiate(config.model).weight.shape == (1, 3, 5, 5)
    assert instantiate(config.data).division.part.tolist() == pd.read_csv(run.path / "split.csv")["split"].tolist()


def test_the_checkpoints_hold_tensors_and_plain_values_only(run):
    for file in (run.best_checkpoint, run.last_checkpoint):
        loaded = torch.load(file, weights_only=True)
        assert {"net.net.weight", "net.net.bias"} <= loaded["state_dict"].keys()
    assert torch.load(run.last_checkpoint, weights_only=True)["epoch"] == 2
    best = torch.load(run.best_checkpoint, weights_only=True)["epoch"]
    assert best == run.history()["val/iou"].idxmax()


def test_the_history_has_a_row_an_epoch_and_names_the_loss_in_force(run):
    history = run.history()
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["loss_name"].tolist() == ["bce", "bce+lovasz", "bce+lovasz"]
    assert np.isfinite(history.select_dtypes("number")).all(axis=None)
    assert (history["images_per_second"] > 0).all()


def test_the_pictures_are_pictures(run):
    for file in run.figures.glob("*.png"):
        with Image.open(file) as picture:
            assert min(picture.size) >= 100
            low, high = picture.convert("L").getextrema()
            assert low < high


def test_tables_arrays_and_metrics_tell_the_same(run):
    metrics, arrays = run.metrics(), np.load(run.path / "scores.npz")
    predictions, curve = pd.read_csv(run.path / "predictions.csv"), pd.read_csv(run.path / "thresholds.csv")
    for part in ("val", "test"):
        rows = predictions[predictions["split"] == part]
        for score, column in {"iou": "iou", "dice": "dice", "map": "ap"}.items():
            assert metrics[f"{part}/{score}"] == pytest.approx(rows[column].mean(), abs=1e-12)
    assert metrics["heldout/iou"] == pytest.approx(predictions["iou"].mean(), abs=1e-12)

    assert curve["threshold"].tolist() == list(CURVE)
    assert metrics["threshold_best"] == best_threshold(curve["iou"].to_numpy())
    for score in ("iou", "dice", "map", "micro_iou"):
        assert metrics[f"val/{score}"] == pytest.approx(curve.set_index("threshold").loc[0.5, score], abs=1e-12)

    assert arrays["id"].tolist() == predictions["id"].tolist()
    counts = Counts(*(arrays[name] for name in ("intersection", "predicted", "truth", "pixels")))
    np.testing.assert_allclose(counts.iou[arrays["split"] == "val"].mean(0), curve["iou"], atol=1e-12)
    assert arrays["probability"].size == (arrays["height"] * arrays["width"]).sum() == 16 * 101 * 101
    assert (arrays["calibration"].sum((1, 2)) == arrays["pixels"]).all()


def test_the_environment_is_on_record(run):
    environment = pd.read_json(run.path / "environment.json", typ="series")
    assert {"command", "started", "git_commit", "python", "device", "cores", "packages"} <= set(environment.index)
    assert torch.__version__.startswith(environment["packages"]["torch"])
    assert "python -m saltseg.train model=tiny" in environment["command"]


def test_what_a_run_is_scored_with_changes_nothing_that_is_trained(run, tmp_path, capsys):
    objectives = []
    job = app("train")(lambda config: objectives.append(train.train(config)))
    call(job, *TINY, *SHARED, f"hydra.run.dir={tmp_path}", "threshold=0.3", "tta=hflip", "weights=last")
    again = Run(tmp_path)
    assert_equal_history(run, again)
    for weights in ("best", "last"):
        assert_equal_weights(run.checkpoint(weights), again.checkpoint(weights))
    assert (again.path / "split.csv").read_text() == (run.path / "split.csv").read_text()
    assert again.metrics()["threshold"] == 0.3

    # A sweeper is told the best epoch's value, not the last's.
    assert objectives == [run.history()["val/iou"].max()]
    shown = capsys.readouterr().out
    for told in ("synthetic, 24 train, 8 val, 8 test", "bce+lovasz", "heldout", str(tmp_path)):
        assert told in shown


def test_the_seed_moves_the_training_but_not_the_division_of_the_data(run, tmp_path):
    other = tiny_run(tmp_path, *SHARED, "seed=1", "trainer.fast_dev_run=1")
    assert (other.path / "split.csv").read_text() == (run.path / "split.csv").read_text()
    assert other.history()["train/loss"][0] != run.history()["train/loss"][0]


def test_which_data_was_taken_by_default_stands_in_the_run(tmp_path, monkeypatch):
    root = tgs_trees.write(tmp_path / "tgs", tgs_trees.zips())
    monkeypatch.setenv("SALTSEG_TGS", str(root))
    split = ["data.split.train=2", "data.split.val=1", "data.split.test=1"]
    run = Run(tmp_path / "run")
    call(train.main, "model=tiny", "trainer=cpu", "trainer.fast_dev_run=1", *split, f"hydra.run.dir={run.path}")
    assert set(files(run.path)) == FILES
    assert run.config().choices.data == run.metrics()["dataset"] == "tgs"
    assert run.config().data.root == str(root)
