"""W&B and TensorBoard without an account: whole, apart from each other, and closed as what the job was."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from runs import OWN, SMALL_DATA, TINY, composed, shell, tiny_run

from saltseg.dashboard import CHOICES, build
from saltseg.errors import SaltsegError
from saltseg.run import Run
from saltseg.tracking import PICTURES, Tensorboard, Wandb, gallery, tracked

pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

NOT_A_NUMBER = """
phases:
  - epoch: 0
    name: not a number
    loss:
      _target_: saltseg.losses.WeightedSum
      losses: {bce: {_target_: torch.nn.BCEWithLogitsLoss}}
      weights: {bce: .nan}
"""
SWEEP = """
import os, saltseg.train
try:
    saltseg.train.main()
finally:
    print("leaked:", sorted(set(os.environ) & {"WANDB_MODE", "WANDB_DATA_DIR"}))
"""
BOTH = ("logger=[wandb,tensorboard]", "callbacks.pictures.every=1")
PHASES = ("loss=bce_lovasz", "loss.lovasz_from=1")
CURVE = ("iou", "dice", "map", "micro_iou", "precision", "recall")


class Record:
    """The one offline run of a job, as W&B itself reads it."""

    def __init__(self, job: Path) -> None:
        (self.log,) = job.glob("wandb/offline-run-*/*.wandb")
        self.summary = json.loads(self._inspect("--summary"))
        self.records = [json.loads(line) for line in self._inspect().splitlines() if line]
        self.history = [r["item"] for r in self.of("history")]
        self.job = self.of("run")[0]

    def _inspect(self, *options: str) -> str:
        wandb = Path(sys.executable).with_name("wandb")
        command = [wandb, "leet", "inspect", "--json", *options, self.log]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    def of(self, kind: str) -> list:
        return [r[kind] for r in self.records if r["type"] == kind]

    def rows(self, key: str) -> list:
        return [row for row in self.history if key in row]

    @property
    def keys(self) -> set[str]:
        return {key.split("._type")[0] for row in self.history for key in row}


def events(job: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(job / "tensorboard"), size_guidance={"images": 0}).Reload()


def steps(events, tag):
    return [e.step for e in events.Scalars(tag)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three jobs, the second of which fails, in a home without an account."""
    folder = tmp_path_factory.mktemp("sweep")
    own = shutil.copytree(OWN, folder / "own")
    (own / "loss").mkdir()
    (own / "loss" / "broken.yaml").write_text(NOT_A_NUMBER)
    home = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "MPLCONFIGDIR": mpl.get_configdir()}
    tiny = ["model=tiny", *SMALL_DATA, "trainer=cpu", "trainer.max_epochs=2", "++loss.lovasz_from=1"]
    tracking = [*BOTH, "logger.wandb.artifact=true"]
    where = f"hydra.sweep.dir={folder / '2026-01-02' / '03-04-05'}"
    command = ["-c", SWEEP, "--config-dir", own, "-m", where, "loss=bce_lovasz,broken,dice", *tiny, *tracking]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        return folder, shell(*command, cwd=folder, **home)


@pytest.fixture(scope="module")
def jobs(sweep):
    return sorted((sweep[0] / "2026-01-02" / "03-04-05").glob("[012]_*"))


@pytest.fixture(scope="module")
def records(jobs):
    return [Record(job) for job in jobs]


@pytest.fixture(scope="module")
def offline():
    """W&B in this process, which ends its service afterwards."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        yield
    wandb.teardown()


def test_a_sweep_says_what_failed_and_leaves_nothing_behind(sweep, jobs):
    folder, done = sweep
    assert done.returncode == 1, done.stderr
    assert "The loss (not a number) is nan at epoch 0, step 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "leaked: []" in done.stdout
    assert [Run(job).metrics()["status"] for job in jobs] == ["finished", "failed", "finished"]
    assert list(folder.glob(".local/share/wandb/artifacts/staging/*")) == []


def test_every_job_has_a_run_of_its_own_closed_as_what_it_was(records):
    assert [(r.summary["state"], r.summary["exit_code"]) for r in records] == [
        ("finished", 0),
        ("failed", 1),
        ("finished", 0),
    ]
    ids = [r.job["run_id"] for r in records]
    assert len(set(ids)) == 3
    for record, loss in zip(records, ("bce_lovasz", "broken", "dice"), strict=True):
        assert len(record.of("run")) == 1
        assert record.log.parent.name.endswith(record.job["run_id"])
        assert (record.job["project"], record.job["run_group"]) == ("saltseg", "2026-01-02/03-04-05")
        assert record.job["job_type"] == "train"
        assert record.job["display_name"] == f"tiny-{loss}-article-seed0-at0.5"
        assert set(record.job["tags"]) == {"synthetic", "tiny", loss, "article"}
        assert record.summary["config"]["choices"]["loss"] == loss


def test_the_config_is_the_resolved_one(records, jobs):
    kept = OmegaConf.to_container(Run(jobs[0]).config())
    logged = records[0].summary["config"]
    assert {k: logged[k] for k in kept} == kept


def test_the_history_is_that_of_the_run(records, jobs):
    record, history = records[0], Run(jobs[0]).history()
    rows = record.rows("lr")
    for column in ("epoch", "lr", "images_per_second", "seconds"):
        assert [row[column] for row in rows] == pytest.approx(history[column].tolist())
    assert [row["val/iou"] for row in record.rows("val/iou")] == pytest.approx(history["val/iou"].tolist())
    assert [row["trainer/global_step"] for row in rows] == [3, 6]
    assert {"glob_name": "*", "step_metric": "trainer/global_step"}.items() <= record.of("metric")[1].items()
    assert record.of("stats"), "no system metrics"


def test_the_phases_of_the_loss_are_apart(records, jobs):
    history = Run(jobs[0]).history()
    for column in ("train/loss", "val/loss", "val/iou"):
        for name, value in zip(history["loss_name"], history[column], strict=True):
            (row,) = records[0].rows(f"{column}/{name}")
            assert row[f"{column}/{name}"] == pytest.approx(value)


def test_the_summary_holds_the_scores_and_the_best_epoch(records, jobs):
    for record, job in zip(records[::2], jobs[::2], strict=True):
        run, summary = Run(job), record.summary["summary"]
        assert {k: summary[k] for k in run.metrics()} == pytest.approx(run.metrics())
        assert summary["best/val/iou"] == pytest.approx(run.history()["val/iou"].max())
    assert "best/val/iou" not in records[1].summary["summary"]


def test_the_same_pictures_every_time(records):
    shown = records[0].rows(f"{PICTURES}._type")
    assert len(shown) == 3  # two epochs, then the kept weights
    names = {tuple(caption.split("\n")[0] for caption in row[f"{PICTURES}.captions"]) for row in shown}
    assert len(names) == 1
    files = records[0].log.parent / "files"
    for row in shown:
        assert row[f"{PICTURES}.count"] == len(row[f"{PICTURES}.filenames"]) >= 4
        assert all((files / file).is_file() for file in row[f"{PICTURES}.filenames"])
        for masks in row[f"{PICTURES}.all_masks"]:
            assert all((files / masks[name]["path"]).is_file() for name in ("prediction", "truth"))


def test_the_threshold_curve_is_a_chart_and_rows_to_compare(records, jobs):
    curve = pd.read_csv(jobs[0] / "thresholds.csv")
    rows = pd.DataFrame(records[0].rows("thresholds/threshold"))
    for column in curve.columns:
        assert rows[f"thresholds/{column}"].tolist() == pytest.approx(curve[column].tolist())
    metrics = {m["name"]: m for m in records[0].of("metric") if "name" in m}
    assert {metrics[f"thresholds/{s}"]["step_metric"] for s in CURVE} == {"thresholds/threshold"}
    assert records[0].summary["summary"]["threshold_curve_table"]["nrows"] == len(curve) * len(CURVE)


def test_predictions_are_a_table_and_the_best_weights_an_artifact(records, jobs):
    table = records[0].summary["summary"]["predictions"]
    predictions = pd.read_csv(jobs[0] / "predictions.csv")
    assert (table["nrows"], table["ncols"]) == predictions.shape
    content = json.loads((records[0].log.parent / "files" / table["path"]).read_text())
    assert content["columns"] == list(predictions.columns)
    (model,) = [a for a in records[0].of("artifact") if a["type"] == "model"]
    assert json.loads(model["metadata"])["test/iou"] == Run(jobs[0]).metrics()["test/iou"]
    assert [c["local_path"] for c in model["manifest"]["contents"]] == [str(Run(jobs[0]).best_checkpoint)]


def test_tensorboard_has_the_same(jobs):
    log, run = events(jobs[0]), Run(jobs[0])
    history, metrics = run.history(), run.metrics()
    assert [e.value for e in log.Scalars("val/iou")] == pytest.approx(history["val/iou"].tolist())
    assert [e.value for e in log.Scalars("lr")] == pytest.approx(history["lr"].tolist())
    assert [e.value for e in log.Scalars("final/test/iou")] == pytest.approx([metrics["test/iou"]])
    plugin = log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"bce_lovasz" in plugin
    assert steps(log, "thresholds/iou") == list(range(5, 100, 5))
    assert [image.step for image in log.Images(PICTURES)] == [3, 6, 6]
    config = log.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "loss: bce_lovasz" in config
    assert "config/text_summary" in events(jobs[1]).Tags()["tensors"], "a failed job's configuration"


def test_the_dashboard_refers_to_what_runs_log(records):
    from wandb_workspaces.reports import v2 as wr

    logged, summary, config = records[0].keys, records[0].summary["summary"], records[0].summary["config"]
    workspace = build("saltseg", "me")
    panels = [panel for section in workspace.sections for panel in section.panels]
    kinds = {type(panel) for panel in panels}
    assert kinds == {wr.LinePlot, wr.ParallelCoordinatesPlot, wr.RunComparer, wr.MediaBrowser}
    for plot in (p for p in panels if isinstance(p, wr.LinePlot)):
        assert {plot.x, *plot.y} <= logged
        if plot.metric_regex:
            lines = {key for key in logged if re.search(plot.metric_regex, key)}
            curves = {"train/loss", "val/loss"} if "Loss" in plot.title else {"val/iou"}
            assert lines == {f"{curve}/{phase}" for curve in curves for phase in ("bce", "bce+lovasz")}
        else:
            assert plot.y
    assert PICTURES in logged
    (parallel,) = [p for p in panels if isinstance(p, wr.ParallelCoordinatesPlot)]
    for column in parallel.columns:
        if isinstance(column.metric, wr.Config):
            assert OmegaConf.select(OmegaConf.create(config), column.metric.name) is not None
        else:
            assert column.metric.name in summary
    assert {p.groupby.name for p in panels if isinstance(p, wr.LinePlot) and p.groupby} <= set(CHOICES)


def test_a_killed_run_has_no_end_and_its_resume_goes_on_under_the_same_id(tmp_path, offline):
    killed = tmp_path / "killed"
    kill = ("trust=[runs]", "+callbacks.kill={_target_: runs.Kill, epoch: 2}")
    tiny = ["--config-dir", OWN, *TINY, *BOTH, *PHASES]
    path = os.pathsep.join([str(OWN.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = shell("-m", "saltseg.train", *tiny, *kill, f"hydra.run.dir={killed}", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == -9, done.stderr
    resumed = tiny_run(tmp_path / "resumed", *BOTH, *PHASES, f"ckpt_path={Run(killed).last_checkpoint}")

    first, second = Record(killed), Record(resumed.path)
    assert first.of("exit") == []
    assert first.summary["exit_code"] is None
    assert (second.summary["state"], second.summary["exit_code"]) == ("finished", 0)
    assert first.job["run_id"] == second.job["run_id"]
    assert "run_group" not in second.job  # no sweep
    epochs = [row["epoch"] for record in (first, second) for row in record.rows("lr")]
    assert epochs == [0, 1, 2]
    assert second.summary["summary"]["best/val/iou"] == pytest.approx(resumed.history()["val/iou"].max())
    log = events(resumed.path)
    assert [e.value for e in log.Scalars("val/iou")] == pytest.approx(resumed.history()["val/iou"].tolist())


def test_a_job_that_only_scores_is_said_to_and_ctrl_c_is_not_a_failure(tmp_path, offline):
    logger = Wandb(project="p", name="n", tags=["t"], save_dir=str(tmp_path), group="a/b")
    with pytest.raises(KeyboardInterrupt), tracked([logger], {"seed": 0}, "score"):
        raise KeyboardInterrupt
    record = Record(tmp_path)
    assert (record.job["job_type"], record.job["run_group"]) == ("score", "a/b")
    assert record.summary["exit_code"] == 255


def test_a_single_run_has_no_group():
    with composed("train", "logger=wandb", *SMALL_DATA) as config:
        assert config.logger.wandb.group is None
        assert config.logger.wandb.artifact is False


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_named(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    make = {
        "wandb": lambda: Wandb("p", "n", [], str(tmp_path)),
        "tensorboard": lambda: Tensorboard(str(tmp_path)),
    }
    with pytest.raises(SaltsegError, match=rf"logger={package} needs {package}: pip install 'saltseg\[{package}\]'"):
        make[package]()


def test_the_gallery_is_some_of_every_kind():
    coverage = np.random.default_rng(0).permutation([0.0] * 20 + [k / 60 for k in range(1, 61)])
    chosen = gallery(coverage)
    shares = coverage[chosen]
    assert len(set(chosen)) == 12
    assert shares.tolist() == sorted(shares)
    assert (shares == 0).sum() == 3
    assert [((low < shares) & (shares <= low + 1 / 3)).sum() for low in (0, 1 / 3, 2 / 3)] == [3, 3, 3]
    assert shares[3] == 1 / 60, "the least salt there is"
    assert shares[-1] == 1
    assert gallery(coverage) == chosen


@pytest.mark.parametrize("coverage", [[], [0.0], [0.5], [0.0, 0.1, 0.2], [0.3, 0.2]])
def test_the_gallery_of_few_images_is_each_of_them_once(coverage):
    assert sorted(gallery(np.array(coverage))) == list(range(len(coverage)))
