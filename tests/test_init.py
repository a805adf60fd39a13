"""``init=RUN``: a training that starts from a finished run's weights, and from nothing else of it."""

import shutil

import pytest
import torch
from runs import TINY, assert_equal_history, assert_equal_weights, call, composed, failure, tiny_run, weights

from saltseg import train
from saltseg.models.smp import smp_model
from saltseg.module import SaltNet
from saltseg.run import Run
from saltseg.sweep import digest, training_key

STILL = ("optimizer=sgd", "optimizer.lr=0", "trainer.max_epochs=1")  # learns nothing


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Its best and its last weights differ."""
    run = tiny_run(tmp_path_factory.mktemp("first") / "first")
    if run.history()["val/iou"].idxmax() == 2:
        state = torch.load(run.best_checkpoint, weights_only=True)
        state["state_dict"]["net.net.bias"] += 1
        torch.save(state, run.best_checkpoint)
    return run


@pytest.mark.parametrize("scored", ["best", "last"])
def test_it_starts_from_the_weights_that_the_run_was_scored_with(tmp_path, first, scored):
    before = Run(tmp_path / "before")
    shutil.copytree(first.path, before.path)
    before.config_file.write_text(before.config_file.read_text().replace("weights: best", f"weights: {scored}"))
    run = tiny_run(tmp_path / "run", f"init={before.path}", "seed=7", *STILL)
    assert_equal_weights(run.last_checkpoint, before.checkpoint(scored))
    assert run.metrics()["encoder_init"] == "run:before"
    assert run.history()["epoch"].tolist() == [0]


def test_optimizer_epochs_and_split_are_new(tmp_path, first):
    run = tiny_run(tmp_path, f"init={first.path}", "data.split.seed=1", "optimizer=sgd", "trainer.max_epochs=2")
    assert run.history()["epoch"].tolist() == [0, 1]
    assert not run.split().equals(first.split())
    assert "exp_avg" not in str(torch.load(run.last_checkpoint, weights_only=True)["optimizer_states"])
    assert not torch.equal(
        weights(run.last_checkpoint)["net.net.weight"], weights(first.best_checkpoint)["net.net.weight"]
    )


def test_a_resume_knows_what_it_started_from(tmp_path, first):
    init = (f"init={first.path}", "trainer.max_epochs=2")
    straight = tiny_run(tmp_path / "straight", *init)
    with pytest.raises(SystemExit, match="130"):
        tiny_run(tmp_path / "stopped", *init, "trust=[runs]", "+callbacks.stop={_target_: runs.StopAt, epoch: 1}")
    checkpoint = Run(tmp_path / "stopped").last_checkpoint
    for name, overrides in {"the same command": init, "without it": init[1:]}.items():
        resumed = tiny_run(tmp_path / name, f"ckpt_path={checkpoint}", *overrides)
        assert_equal_history(straight, resumed)
        assert_equal_weights(straight.last_checkpoint, resumed.last_checkpoint)
        assert resumed.metrics()["encoder_init"] == straight.metrics()["encoder_init"] == "run:first"


def test_no_hub_is_asked_for_what_would_be_overwritten(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("saltseg.models.smp.load_encoder_weights", lambda _, what, *__: asked.append(what) or "random")
    net = SaltNet(smp_model("Unet", "tu-mobilenetv3_small_050", None))
    before = Run.begin(tmp_path / "before")
    torch.save({"epoch": 0, "state_dict": {f"net.{k}": v for k, v in net.state_dict().items()}}, before.best_checkpoint)
    before.write_config({"weights": "best"})
    before.write_metrics({"status": "finished"})
    asked.clear()
    model = ("model=smp", "model.encoder=tu-mobilenetv3_small_050", "model.encoder_weights=imagenet")
    with composed("train", "data=synthetic", *model, f"init={before.path}") as config:
        module = train.make_module(config, train.make_data(config))
    assert asked == [None]
    assert module.net.encoder_init == "run:before"
    assert all(torch.equal(v, module.net.state_dict()[k]) for k, v in net.state_dict().items())


def test_its_weights_are_part_of_what_determines_a_training(tmp_path, first):
    def key(*overrides):
        with composed("train", "data=synthetic", *overrides) as config:
            return training_key(config, digest)

    for name in ("copy", "other"):
        shutil.copytree(first.path, tmp_path / name)
    (tmp_path / "copy" / "figures" / "curves.png").unlink()  # no weight
    shutil.copy(first.last_checkpoint, tmp_path / "other" / "checkpoints" / "best.ckpt")
    keys = [key(), *(key(f"init={path}") for path in (first.path, tmp_path / "copy", tmp_path / "other"))]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_a_sweep_over_it_trains_each(tmp_path, first):
    sweep = ("-m", *TINY, f"init=null,{first.path}", *STILL, f"hydra.sweep.dir={tmp_path}")
    call(train.main, *sweep)
    runs = [Run(path) for path in sorted(tmp_path.iterdir()) if (path / "metrics.json").exists()]
    assert [run.metrics()["encoder_init"] for run in runs] == ["random", "run:first"]
    assert [run.metrics()["trained_by"] for run in runs] == [run.path.name for run in runs]


def test_what_is_no_finished_run_is_refused(capfd, tmp_path, first):
    half = Run(tmp_path / "half")
    shutil.copytree(first.path, half.path)
    half.write_metrics({"status": "interrupted"})
    other = ("model=resnet18", "model.encoder_weights=null")
    for overrides, said in (
        ([f"init={tmp_path / 'nothing'}"], ["init: ", "is not a run"]),
        ([f"init={half.path}"], ["init: ", "did not finish"]),
        ([f"init={first.path}", *other], ["best.ckpt is a checkpoint of another model"]),
        ([f"init={half.path}", f"ckpt_path={first.last_checkpoint}"], ["init=", "started from no other run"]),
    ):
        shown = failure(capfd, train.main, *TINY, *overrides, f"hydra.run.dir={tmp_path / 'run'}")
        assert all(word in shown for word in said), shown
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
