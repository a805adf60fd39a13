"""The benchmark of a machine, and where the time of a training goes."""

import io
import json
import time

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from runs import OWN, SMALL_DATA, call, failure, shell, tgs_run, tiny_run

from saltseg import benchmark, train
from saltseg.profiling import STAGES, Stages
from saltseg.run import Run

FEW = ("model=tiny", *SMALL_DATA, "trainer.limit_train_batches=3", "trainer.limit_val_batches=1")


def test_time_belongs_to_the_innermost_stage():
    stages = Stages()
    with stages.profile("before"):
        time.sleep(0.01)
    with stages.profile("run_training_epoch"):
        with stages.profile("[_TrainingEpochLoop].train_dataloader_next"):
            time.sleep(0.02)
        with stages.profile("[LightningModule]SaltModule.optimizer_step"):
            with stages.profile("[Strategy]SingleDeviceStrategy.training_step"):
                time.sleep(0.05)
            with stages.profile("[Strategy]SingleDeviceStrategy.backward"), stages.profile("[LightningModule].on_x"):
                time.sleep(0.08)
            time.sleep(0.02)
        with stages.profile("[Callback]History.on_train_batch_end"):
            time.sleep(0.01)
        time.sleep(0.01)
    shares = stages.shares()
    assert list(shares) == [*STAGES, "other"]
    assert sum(shares.values()) == pytest.approx(1)
    expected = {"data": 0.02, "forward": 0.05, "backward": 0.08, "optimizer": 0.02, "logging": 0.01, "other": 0.01}
    for stage, seconds in expected.items():
        assert stages.seconds[stage] == pytest.approx(seconds, rel=0.5), stage
    assert shares["metrics"] == 0
    longer = stages.shares(data=3.0)
    assert longer["data"] / longer["forward"] == pytest.approx(3 * shares["data"] / shares["forward"])
    assert sum(longer.values()) == pytest.approx(1)


def test_any_training_can_say_where_its_time_went(tmp_path, capsys):
    profiler = "trainer.profiler={_target_: saltseg.profiling.Stages}"
    call(
        train.main,
        "model=tiny",
        *SMALL_DATA,
        "trainer=cpu",
        "trainer.max_epochs=1",
        profiler,
        f"hydra.run.dir={tmp_path}/run",
    )
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("time of the last epoch"))
    for stage in ("data", "forward", "backward", "optimizer", "metrics", "logging"):
        assert f"{stage} 0.0%" not in line


def test_a_benchmark_tries_the_axes_and_writes_what_train_takes(tmp_path):
    axes = "axes=['memory_format=channels_last,contiguous','data.batch_size=8']"
    done = shell(
        "-m",
        "saltseg.benchmark",
        "--config-dir",
        OWN,
        *FEW,
        "trainer=cpu",
        axes,
        f"hydra.run.dir={tmp_path}/b",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    assert [r["setting"]["data.batch_size"] for r in rows] == ["8", "8"]
    for row in rows:
        assert row["images_per_second"] > 0
        assert 0.1 < row["gigabytes"] < 10
        assert sum(row[s] for s in (*STAGES, "other")) == pytest.approx(1, abs=1e-3)
    assert {p.name for p in (tmp_path / "b").iterdir() if p.is_dir()} == {".hydra", "conf"}  # no checkpoints are left
    chosen = OmegaConf.load(tmp_path / "b" / "conf" / "machine" / "fastest.yaml")
    first, second = (r["images_per_second"] for r in rows)
    fastest = "contiguous" if second > benchmark.CLEARLY * first else "channels_last"
    assert chosen == {"memory_format": fastest}  # a batch size changes what is learned
    assert "machine=fastest" in done.stdout
    call(
        train.main, "model.encoder_weights=null", *SMALL_DATA, "trainer=cpu", "machine=fastest", "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run", own=tmp_path / "b" / "conf",
    )  # fmt: skip
    assert Run(tmp_path / "run").config().memory_format == chosen.memory_format


def faked(speeds):
    """A stand-in for a process that measures a setting."""

    def in_process(setting):
        speed = 100.0
        for axis, value in setting.items():
            speed *= speeds.get((axis, value), 1)
        stages = dict.fromkeys((*STAGES, "other"), 0.1)
        return {"setting": setting, "images_per_second": speed, "gigabytes": 1.0, **stages}

    return in_process


def test_the_best_is_clearly_faster_and_learns_the_same(monkeypatch):
    speeds = {
        ("compile", "true"): 1.02,  # no more than two runs of the same differ by
        ("threads", "2"): 1.1,
        ("threads", "1"): 1.2,
        ("data.batch_size", "64"): 1.5,  # faster, but another training
    }
    monkeypatch.setattr(benchmark, "in_process", faked(speeds))
    axes = benchmark.read_axes(["compile=false,true", "threads=4, 2,1", "data.batch_size=32,64"])
    rows, best = benchmark.search(axes)
    assert [r["images_per_second"] for r in rows] == pytest.approx([100, 102, 110, 120, 180])
    assert best["setting"] == {"compile": "false", "threads": "1", "data.batch_size": "32"}
    written = benchmark.as_yaml(best)
    assert "120.0 images/s" in written
    assert OmegaConf.create(written) == {"compile": False, "threads": 1}
    printed = Console(width=80, file=io.StringIO())
    printed.print(benchmark.as_table(rows, best))
    names = ["as it begins", "compile=true", "threads=2", "threads=1", "data.batch_size=64"]
    lines = printed.file.getvalue().splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1 : len(rows) + 1]] == names  # none is cut or folded


def test_backends_are_compared_with_float32(tmp_path):
    run = tiny_run(tmp_path / "run", "tta=hflip")
    done = shell(
        "-m", "saltseg.benchmark", "--config-dir", OWN, f"run={run.path}", f"hydra.run.dir={tmp_path}/b", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    assert [r["backend"] for r in rows] == ["torch", "onnx", "openvino", None]
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["iou"] == pytest.approx(run.metrics()["heldout/iou"], abs=1e-3), row["backend"]
    fastest = max(rows[:3], key=lambda r: r["images_per_second"])["backend"]
    assert f"fastest here: backend={fastest}" in done.stdout


def test_backends_are_measured_where_the_data_is_now(tmp_path, capfd, monkeypatch):
    run, root = tgs_run(tmp_path)
    now = root.rename(tmp_path / "now")
    monkeypatch.setattr(benchmark, "TIMED", 4)
    again = ("data=tgs", f"run={run.path}", f"hydra.run.dir={tmp_path}/b")
    assert f"data.root: {root} does not exist" in failure(capfd, benchmark.main, *again)
    call(benchmark.main, *again, f"data.root={now}")
    assert "fastest here" in capfd.readouterr().out


@pytest.mark.parametrize("axis", ["threads", "threads=", "=2"])
def test_an_axis_needs_a_key_and_values(axis, tmp_path, capfd):
    said = failure(capfd, benchmark.main, *FEW, f"axes=['{axis}']", f"hydra.run.dir={tmp_path}/b")
    assert f"axes: {axis} is no axis" in said


def test_a_setting_that_fails_is_named(tmp_path, capfd):
    said = failure(capfd, benchmark.main, *FEW, "axes=['data.num_workers=-1']", f"hydra.run.dir={tmp_path}/b")
    assert "data.num_workers=-1" in said


def test_threads_are_those_asked_for(tmp_path):
    code = "import sys, torch; from saltseg import train; train.main(); print('threads', torch.get_num_threads())"
    small = (*SMALL_DATA, "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "model=resnet18")
    done = shell(
        "-c", code, *small, "model.encoder_weights=null", "threads=3", f"hydra.run.dir={tmp_path}/r", cwd=tmp_path
    )
    assert "threads 3" in done.stdout, done.stderr
