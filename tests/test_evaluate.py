import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import call, failure, files, tgs_run, tiny_run

from saltseg import evaluate, inference, report
from saltseg.components import instantiate
from saltseg.hardware import Hardware
from saltseg.inference import Predictor, load_net
from saltseg.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluated") / "run"
    return tiny_run(directory, "threshold=0.45", "tta=hflip", "weights=last", "loss=dice")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another seed on the same division."""
    return tiny_run(tmp_path_factory.mktemp("evaluated") / "second", "seed=1", "trainer.max_epochs=1")


@pytest.fixture(autouse=True)
def _same_arithmetic(monkeypatch):
    """As the runs were trained: what a machine is good at may be another precision."""
    monkeypatch.setattr(inference, "detect", lambda: Hardware("cpu", "32-true", "contiguous", "for the test"))


def scored(directory, *overrides):
    call(evaluate.main, f"hydra.run.dir={directory}", *overrides)
    return Run(directory)


def scores(metrics):
    return {k: v for k, v in metrics.items() if "/" in k and not k.startswith("grain/")}


def test_a_run_is_reproduced_at_its_own_settings_and_left_alone(run, tmp_path):
    before = {name: (run.path / name).read_bytes() for name in files(run.path)}
    again = scored(tmp_path, f"run={run.path}")
    own, new = run.metrics(), again.metrics()
    assert scores(new) == pytest.approx(scores(own), abs=1e-6)
    for key in ("threshold", "threshold_best", "weights", "tta", "dataset", "status"):
        assert new[key] == own[key]
    for name in ("thresholds.csv", "predictions.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(again.path / name), pd.read_csv(run.path / name), atol=1e-6)
    assert {name: (run.path / name).read_bytes() for name in files(run.path)} == before


def test_another_threshold_is_scored_as_the_curve_says(run, tmp_path):
    metrics = scored(tmp_path, f"run={run.path}", "threshold=0.3").metrics()
    row = pd.read_csv(run.path / "thresholds.csv").set_index("threshold").loc[0.3]
    assert metrics["threshold"] == 0.3
    for score in ("iou", "dice", "map", "micro_iou"):
        assert metrics[f"val/{score}"] == pytest.approx(row[score], abs=1e-6)


def test_the_best_threshold_is_that_of_validation(run, tmp_path):
    own = run.metrics()
    for name, parts in {"both": [], "test alone": ["split=test"]}.items():
        metrics = scored(tmp_path / name.replace(" ", "_"), f"run={run.path}", "threshold=best", *parts).metrics()
        assert metrics["threshold"] == own["threshold_best"]
        assert metrics["test/iou"] == pytest.approx(own["test_best/iou"], abs=1e-6)


def test_one_split_alone(run, tmp_path):
    only = scored(tmp_path, f"run={run.path}", "split=test")
    assert {key.partition("/")[0] for key in scores(only.metrics())} == {"test"}
    assert only.metrics()["test/iou"] == pytest.approx(run.metrics()["test/iou"], abs=1e-6)
    for key in ("temperature", "test/ece_tempered", "test/iou_kept80"):  # fitted on validation, when the run was scored
        assert only.metrics()[key] == pytest.approx(run.metrics()[key], abs=1e-6)
    assert set(pd.read_csv(only.path / "predictions.csv")["split"]) == {"test"}


def test_test_time_augmentation_averages_over_the_mirror_image(run, tmp_path):
    plain = scored(tmp_path, f"run={run.path}", "tta=none")
    assert plain.metrics()["tta"] == "none"
    mirrored = np.load(run.path / "scores.npz")["probability"].reshape(-1, 101, 101)
    assert not np.array_equal(mirrored, np.load(plain.path / "scores.npz")["probability"].reshape(-1, 101, 101))

    data, net = instantiate(run.config().data), load_net(run, "last")
    images = [image for part in ("val", "test") for image in data.part(part).images]
    views = [Predictor([net])(view) for view in (images, [np.fliplr(image) for image in images])]
    mean = (np.stack(views[0]) + np.stack(views[1])[..., ::-1]) / 2
    # Padding to a multiple of 32 puts 13 columns left and 14 right: its mirror image is another one at the edges.
    np.testing.assert_allclose(mirrored[..., 4:-4] / 255, mean[..., 4:-4], atol=0.003)


def test_an_ensemble_averages_the_probabilities_of_its_members(run, second, tmp_path):
    options = ("tta=none", "weights=last")
    alone = [scored(tmp_path / str(k), f"run={r.path}", *options) for k, r in enumerate((run, second))]
    both = scored(tmp_path / "both", f"run=[{run.path},{second.path}]", *options)
    members = [np.load(r.path / "scores.npz")["probability"].astype(int) for r in alone]
    together = np.load(both.path / "scores.npz")["probability"]
    assert np.abs(together - np.mean(members, axis=0)).max() <= 1
    assert both.metrics()["runs"] == [str(run.path), str(second.path)]
    assert both.metrics()["threshold"] == 0.45
    assert both.metrics()["temperature"] not in [r.metrics()["temperature"] for r in alone]


def test_three_networks_tell_what_they_disagree_about(run, second, tmp_path):
    three = scored(tmp_path / "three", f"run=[{run.path},{second.path},{run.path}]", "split=test")
    assert (pd.read_csv(three.path / "predictions.csv")["disagreement"] > 0).all()
    assert "disagreement" in set(pd.read_csv(three.path / "uncertainty.csv")["by"])
    assert (
        "temperature" not in three.metrics()
    )  # an ensemble's own is fitted on its validation, which isn't scored here


def test_an_ensemble_with_a_member_that_has_learned_the_scored_images_is_refused(run, tmp_path, capfd):
    other = tiny_run(tmp_path / "other", "data.split.seed=1", "trainer.fast_dev_run=1")
    said = failure(
        capfd, evaluate.main, f"run=[{run.path},{other.path}]", "split=test", f"hydra.run.dir={tmp_path / 'scored'}"
    )
    seen = set(pd.read_csv(other.path / "split.csv").query("split == 'train'")["id"])
    scored_ids = set(pd.read_csv(run.path / "split.csv").query("split == 'test'")["id"])
    assert str(other.path) in said
    assert f"{len(seen & scored_ids)} of the 8" in said
    assert not (tmp_path / "scored" / "metrics.json").exists()


def test_a_run_may_move(run, tmp_path):
    moved = shutil.copytree(run.path, tmp_path / "moved")
    metrics = scored(tmp_path / "scored", f"run={moved}").metrics()
    assert scores(metrics) == pytest.approx(scores(run.metrics()), abs=1e-6)


def test_data_may_move(tmp_path, capfd):
    run, root = tgs_run(tmp_path)
    now = root.rename(tmp_path / "now")
    said = failure(capfd, evaluate.main, f"run={run.path}", f"hydra.run.dir={tmp_path}/none")
    assert f"data.root: {root} does not exist" in said
    metrics = scored(tmp_path / "scored", f"run={run.path}", f"data.root={now}").metrics()
    assert scores(metrics) == pytest.approx(scores(run.metrics()), abs=1e-6)


def test_the_table_of_scores_fits_80_columns(capsys):
    results = Path(__file__).parents[1] / "docs" / "results"
    for name in ("pretrained", "speedrun"):
        report.show_scores(Run(results / name))
        said = capsys.readouterr().out
        assert "empty_correct" in said
        assert "heldout" in said
        assert max(map(len, said.splitlines()[:-2])) <= 80
