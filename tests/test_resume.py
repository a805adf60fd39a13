"""A run that was stopped and resumed ends as one that was not, bit by bit."""

import signal
import subprocess
import sys
import time

import pytest
from runs import OWN, TINY, assert_equal_history, assert_equal_weights, call, tiny_run

from saltseg import train
from saltseg.run import Run

# Batch norm has buffers and dropout draws: both must go on as if nothing had happened.
NET = """
_target_: torch.nn.Sequential
_args_:
  - {_target_: torch.nn.Conv2d, in_channels: 3, out_channels: 4, kernel_size: 3, padding: 1}
  - {_target_: torch.nn.BatchNorm2d, num_features: 4}
  - {_target_: torch.nn.Dropout2d, p: 0.25}
  - {_target_: torch.nn.Conv2d, in_channels: 4, out_channels: 1, kernel_size: 3, padding: 1}
"""
LOSS = ("loss=bce_lovasz", "loss.phases.1.epoch=3")
SETUPS = {
    "one cycle, averaged weights": ("optimizer=adamw", "scheduler=one_cycle", "callbacks=averaged"),
    "plateau, best epoch first": ("optimizer=sgd", "scheduler=plateau", "scheduler.patience=0", "monitor=val/map"),
}
CLOCKED = ("train_seconds", "images_per_second", "trained_by")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "model").mkdir()
    (folder / "model" / "stochastic.yaml").write_text(NET)
    return folder


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_resumed_is_uninterrupted(tmp_path, capfd, own, setup):
    def run(name, *overrides):
        return tiny_run(tmp_path / name, "model=stochastic", "trainer.max_epochs=4", *LOSS, *setup, *overrides, own=own)

    straight = run("straight")
    with pytest.raises(SystemExit, match="130"):
        run("stopped", "trust=[runs]", "+callbacks.stop={_target_: runs.StopAt, epoch: 2}")
    stopped = Run(tmp_path / "stopped")
    assert stopped.metrics()["status"] == "interrupted"
    assert stopped.history()["epoch"].tolist() == [0, 1]
    assert f"ckpt_path={stopped.last_checkpoint}" in capfd.readouterr().err

    resumed = run("resumed", f"ckpt_path={stopped.last_checkpoint}")
    assert_equal_history(straight, resumed)
    assert_equal_weights(straight.last_checkpoint, resumed.last_checkpoint)
    assert_equal_weights(straight.best_checkpoint, resumed.best_checkpoint)
    ends = [{k: v for k, v in run.metrics().items() if k not in CLOCKED} for run in (straight, resumed)]
    assert ends[0] == ends[1]


def test_a_training_that_is_done_is_scored_again(tmp_path):
    done = tiny_run(tmp_path / "done")
    again = tiny_run(tmp_path / "again", f"ckpt_path={done.last_checkpoint}", "threshold=0.4")
    assert_equal_history(done, again)
    for name in ("best", "last"):
        assert_equal_weights(done.checkpoint(name), again.checkpoint(name))
    assert again.metrics()["val_best/iou"] == done.metrics()["val_best/iou"]
    assert again.metrics()["threshold"] == 0.4
    assert {f.name for f in again.figures.iterdir()} == {f.name for f in done.figures.iterdir()}


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path):
    stopped = Run(tmp_path / "stopped")
    overrides = [*TINY, "trainer.max_epochs=10000", f"hydra.run.dir={stopped.path}"]
    command = [sys.executable, "-m", "saltseg.train", "--config-dir", str(OWN), *overrides]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (stopped.last_checkpoint.exists() and stopped.history_file.exists()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]

    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"ckpt_path={stopped.last_checkpoint}" in said
    assert stopped.metrics()["status"] == "interrupted"
    done = int(stopped.history()["epoch"].max()) + 1
    resumed = tiny_run(tmp_path / "resumed", f"ckpt_path={stopped.last_checkpoint}", f"trainer.max_epochs={done + 1}")
    assert resumed.metrics()["status"] == "finished"
    assert resumed.history()["epoch"].tolist() == list(range(done + 1))


def test_stopped_before_the_first_epoch_says_that_there_is_nothing_to_resume(tmp_path, capfd):
    stop = ("trust=[runs]", "+callbacks.stop={_target_: runs.StopAt, epoch: 0}")
    with pytest.raises(SystemExit, match="130"):
        call(train.main, *TINY, *stop, f"hydra.run.dir={tmp_path}")
    assert "No epoch was done" in capfd.readouterr().err
    assert Run(tmp_path).metrics()["status"] == "interrupted"
