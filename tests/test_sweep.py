"""Sweeps: each training once, failures told and survived, continued where they stopped."""

import os
import re
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import get_class
from omegaconf import OmegaConf
from runs import OWN, SMALL_DATA, TINY, assert_equal_history, assert_equal_weights, call, composed, shell, tiny_run

from saltseg import train, waves
from saltseg.config import CONF
from saltseg.errors import SaltsegError
from saltseg.run import Run
from saltseg.sweep import Sweep, digest, training_key


def sweep_of(directory, *overrides):
    """A sweep in this process; its exit status."""
    try:
        call(train.main, "-m", *TINY, f"hydra.sweep.dir={directory}", *overrides)
    except SystemExit as stop:
        return stop.code
    return 0


def jobs_of(directory):
    return {job.directory: job for job in Sweep.read(directory).jobs}


def compose_job(overrides):
    """As the sweeper composes."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=overrides, return_hydra_config=True)


# Six jobs: a training and one that scores it, a training that fails and one that would have scored it, and two that
# can't work.
MIXED = ("optimizer.lr=0.03,-1", "threshold=0.4,0.5,2")
NAMES = [
    f"{k}_optimizer.lr-{lr}-threshold-{t}"
    for k, (lr, t) in enumerate((r, t) for r in ("0.03", "-1") for t in ("0.4", "0.5", "2"))
]
TRAINED, SCORED, IMPOSSIBLE, FAILED, ORPHAN, _ = NAMES


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mixed")
    assert sweep_of(directory, *MIXED) == 1
    return directory


def test_a_failure_stops_no_other_job_and_has_its_reason(mixed):
    states = {name: Run(mixed / name).metrics() for name in NAMES}
    assert {name: state["status"] for name, state in states.items()} == {
        name: "finished" if name in (TRAINED, SCORED) else "failed" for name in NAMES
    }
    assert "between 0 and 1" in states[IMPOSSIBLE]["error"]
    assert states[FAILED]["error"] == "optimizer: Invalid learning rate: -1."
    assert states[ORPHAN]["error"] == f"Its training, {FAILED}, did not finish."
    assert "saltseg: optimizer: Invalid" in Run(mixed / FAILED).log_file.read_text()


def test_a_job_that_only_scores_has_all_files_and_its_twins_weights(mixed):
    twin, scored = Run(mixed / TRAINED), Run(mixed / SCORED)
    assert {p.name for p in scored.path.iterdir()} == {p.name for p in twin.path.iterdir()}
    assert {p.name for p in scored.figures.iterdir()} == {p.name for p in twin.figures.iterdir()}
    for name in ("best", "last"):
        link = scored.checkpoint(name)
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == twin.checkpoint(name).resolve()
    assert scored.metrics()["trained_by"] == twin.metrics()["trained_by"] == TRAINED
    assert scored.metrics()["train_seconds"] == twin.metrics()["train_seconds"]
    pd.testing.assert_frame_equal(scored.history(), twin.history())
    curve = pd.read_csv(twin.path / "thresholds.csv").set_index("threshold")
    assert scored.metrics()["val/iou"] == pytest.approx(curve.loc[0.5, "iou"], abs=1e-12)
    assert twin.metrics()["val/iou"] == pytest.approx(curve.loc[0.4, "iou"], abs=1e-12)


def test_the_summary_has_a_row_for_each_job(mixed):
    summary = pd.read_csv(mixed / "summary.csv").set_index("job")
    assert summary.index.tolist() == NAMES
    assert summary.loc[SCORED, "trained_by"] == TRAINED
    assert summary.loc[FAILED, "error"] == "optimizer: Invalid learning rate: -1."
    assert summary["optimizer.lr"].tolist() == [0.03] * 3 + [-1] * 3
    assert summary["test/iou"].notna().tolist() == [name in (TRAINED, SCORED) for name in NAMES]
    assert summary.loc[TRAINED, "val/iou"] == Run(mixed / TRAINED).metrics()["val/iou"]


def test_the_same_command_tries_the_failed_again_and_leaves_the_rest(mixed, capfd):
    before = {name: Run(mixed / name).metrics_file.stat().st_mtime_ns for name in (TRAINED, SCORED)}
    assert sweep_of(mixed, *MIXED) == 1
    said = capfd.readouterr()
    assert {name: Run(mixed / name).metrics_file.stat().st_mtime_ns for name in before} == before
    assert f"{FAILED} failed: optimizer" in said.out
    assert "4 of 6 jobs did not finish" in said.err
    assert "Error executing job" not in said.err
    assert re.search(rf"^  {IMPOSSIBLE}: threshold=2", said.err, re.MULTILINE)


def test_a_sweep_can_grow_without_training_anew(mixed):
    weights = Run(mixed / TRAINED).best_checkpoint.stat().st_mtime_ns
    assert sweep_of(mixed, "optimizer.lr=0.03", "threshold=0.6") == 1  # what failed before is still missing
    added = Run(next(mixed.glob("6_*")))
    assert added.metrics()["status"] == "finished"
    assert added.metrics()["trained_by"] == TRAINED
    assert Run(mixed / TRAINED).best_checkpoint.stat().st_mtime_ns == weights
    assert added.path.name in pd.read_csv(mixed / "summary.csv")["job"].tolist()


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, capfd):
    once = ("trust=[runs]", f"+callbacks.stop={{_target_: runs.StopOnce, folder: {tmp_path / 'mark'}, epoch: 2}}")
    (tmp_path / "mark").mkdir()
    command = ("seed=3,4", *once)
    assert sweep_of(tmp_path / "sweep", *command) == 130
    assert f"hydra.sweep.dir={tmp_path / 'sweep'}" in capfd.readouterr().err
    stopped, waiting = (Run(tmp_path / "sweep" / name) for name in ("0_seed-3", "1_seed-4"))
    assert stopped.metrics()["status"] == "interrupted"
    assert stopped.history()["epoch"].tolist() == [0, 1]
    assert not waiting.path.exists()

    assert sweep_of(tmp_path / "sweep", *command) == 0
    straight = tiny_run(tmp_path / "straight", "seed=3")
    assert_equal_history(stopped, straight)
    assert_equal_weights(stopped.last_checkpoint, straight.last_checkpoint)
    assert_equal_weights(stopped.best_checkpoint, straight.best_checkpoint)
    assert waiting.metrics()["status"] == "finished"


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("threshold=0.3", True),
        ("tta=hflip", True),
        ("weights=last", True),
        ("logger=wandb", True),
        ("data.num_workers=0", True),
        ("seed=1", False),
        ("model=resnet34", False),
        ("loss=dice", False),
        ("data.data_seed=1", False),
        ("data.batch_size=16", False),
        ("trainer.max_epochs=41", False),
        ("monitor=val/map", False),
    ],
)
def test_jobs_share_a_training_when_nothing_that_learns_differs(override, same):
    def key(*overrides):
        with composed("train", "data=synthetic", *overrides) as config:
            return training_key(config, digest)

    assert (key() == key(override)) is same


def test_a_file_counts_by_what_is_in_it(tmp_path):
    def key(folder):
        with composed("train", "data=folder", f"data.images={folder}", "data.masks=none") as config:
            return training_key(config, digest)

    for name in ("first", "second"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.png").write_bytes(b"1")
    assert key(tmp_path / "first") == key(tmp_path / "second")
    (tmp_path / "second" / "sub" / "a.png").write_bytes(b"2")
    assert key(tmp_path / "first") != key(tmp_path / "second")


def test_a_sweep_is_not_continued_with_other_data(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"1")
    jobs = [["data=tgs", f"data.root={tmp_path / 'data.bin'}"]]

    Sweep.plan(tmp_path, jobs, compose_job, train.check_values)
    Sweep.plan(tmp_path, jobs, compose_job, train.check_values)
    (tmp_path / "data.bin").write_bytes(b"2")
    with pytest.raises(SaltsegError, match=r"job 0_data.*other data"):
        Sweep.plan(tmp_path, jobs, compose_job, train.check_values)


def test_a_plan_that_was_edited_is_told(tmp_path):
    (tmp_path / "sweep.json").write_text("[{]")
    with pytest.raises(SaltsegError, match=r"sweep\.json"):
        Sweep.read(tmp_path)


def test_a_worker_that_dies_takes_no_other_wave_along(tmp_path, capfd):
    """What joblib raises when a process is killed must not lose what ended before, nor what can still be done."""

    def launch(jobs):
        for overrides in jobs:
            name = next(o.split("'")[1] for o in overrides if o.startswith("hydra.sweep.subdir"))
            if "seed=0" in overrides:
                run = Run.begin(tmp_path / name)
                run.write_metrics({"status": "finished", "val/iou": 0.5})
        if any("seed=1" in overrides for overrides in jobs):
            raise RuntimeError("a worker was killed")
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]

    jobs = [["data=synthetic", f"seed={seed}", f"threshold={t}"] for seed, t in ((0, 0.5), (1, 0.5), (0, 0.3))]
    sweep = Sweep.plan(tmp_path, jobs, compose_job, train.check_values)
    with pytest.raises(SaltsegError, match="1 of 3 jobs") as stop:
        waves.carry_out(sweep, launch)
    assert "1_seed-1-threshold-0.5: RuntimeError: a worker was killed" in str(stop.value)
    assert Run(tmp_path / "2_seed-0-threshold-0.3").metrics()["status"] == "finished"


#: How many jobs and trainings each has.
PLANNED = {
    "encoder_threshold_sweep": (6, 2),
    "seeds": (5, 5),
    "folds": (5, 5),
    "losses": (6, 6),
    "verdict": (30, 30),
    "labelled_lines": (4, 4),
}


def test_every_experiment_that_is_a_sweep_has_its_numbers_here():
    assert {f.stem for f in (CONF / "experiment").glob("*.yaml") if "MULTIRUN" in f.read_text()} == set(PLANNED)


@pytest.mark.parametrize("experiment", PLANNED)
def test_an_experiment_that_is_a_sweep_runs_by_its_name_alone(tmp_path, monkeypatch, experiment):
    seen = []
    monkeypatch.setattr(waves, "carry_out", lambda sweep, *_: seen.append(sweep))
    call(train.main, f"experiment={experiment}", *SMALL_DATA[:1], f"hydra.sweep.dir={tmp_path}")
    (sweep,) = seen
    assert (len(sweep.jobs), sum(job.trains for job in sweep.jobs)) == PLANNED[experiment]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", job.directory) for job in sweep.jobs)


LAUNCHERS = sorted(file.stem for file in (CONF / "hydra" / "launcher").glob("*.yaml"))
FAKE_SLURM = Path(__file__).parent / "slurm"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes_and_takes_its_keys(launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    with composed("train", f"hydra/launcher={launcher}"):
        settings = OmegaConf.to_container(HydraConfig.get().launcher, resolve=True)
    get_class(settings.pop("_target_"))(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_is_the_same_under_every_launcher(tmp_path, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    sweep = ["seed=0,1", "threshold=0.4,0.5", "optimizer.lr=0.03,-1", f"hydra/launcher={launcher}"]
    if "submitit" in launcher:
        sweep += ["trust=[runs]", f"+callbacks.preempt={{_target_: runs.PreemptOnce, folder: {tmp_path}, epoch: 1}}"]
    command = ("-m", "saltseg.train", "--config-dir", OWN, "-m", *TINY, *sweep, "hydra.sweep.dir=sweep")
    path = {"PATH": f"{FAKE_SLURM}:{os.environ['PATH']}", "PYTHONPATH": f"{OWN.parent}:{CONF.parent}"}
    done = shell(*command, cwd=tmp_path, **path)
    assert done.returncode == 1, done.stderr
    assert "4 of 8 jobs did not finish" in done.stderr
    assert "Traceback" not in done.stderr
    summary = pd.read_csv(tmp_path / "sweep" / "summary.csv")
    finished = summary[summary["status"] == "finished"]
    assert finished["optimizer.lr"].tolist() == [0.03] * 4
    assert finished["trained_by"].nunique() == 2
    assert (
        summary.loc[summary["status"] == "failed", "error"].str.contains("Invalid learning rate|did not finish").all()
    )
    for seed in (0, 1):
        alone = tiny_run(tmp_path / f"alone{seed}", f"seed={seed}", "threshold=0.5")
        (twin,) = finished.loc[(finished["seed"] == seed) & (finished["threshold"] == 0.5), "job"]
        assert_equal_history(Run(tmp_path / "sweep" / twin), alone)
        assert Run(tmp_path / "sweep" / twin).metrics()["test/iou"] == alone.metrics()["test/iou"]
    assert (tmp_path / ".stopped").exists() == ("submitit" in launcher)
    if launcher == "submitit_slurm":
        scripts = "".join(file.read_text() for file in (tmp_path / "sweep" / ".submitit").glob("*submission*.sh"))
        for line in (
            "--array=0-3%4",
            "--gpus-per-node=1",
            "--cpus-per-task=8",
            "--mem=16GB",
            "--time=240",
            "--signal=USR2@120",
        ):
            assert f"#SBATCH {line}\n" in scripts
