"""Weights & Biases without an account: offline, no question, and closed as what the job was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from runs import OWN, SMALL_DATA, shell

from saltseg.run import Run

pytest.importorskip("wandb")

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
    print("leaked:", "WANDB_MODE" in os.environ)
"""


def recorded(job):
    """What W&B itself reads in the one log of a job."""
    (log,) = job.glob("wandb/offline-run-*/*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--summary", "--json", log], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_a_sweep_without_an_account_leaves_a_closed_offline_run_of_each_job(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    own = shutil.copytree(OWN, tmp_path / "own")
    (own / "loss").mkdir()
    (own / "loss" / "broken.yaml").write_text(NOT_A_NUMBER)
    overrides = ["loss=bce,broken", "model=tiny", *SMALL_DATA, "trainer=cpu", "trainer.max_epochs=2", "logger=wandb"]
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "MPLCONFIGDIR": mpl.get_configdir()}
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    done = shell("-c", SWEEP, "--config-dir", own, "-m", sweep, *overrides, cwd=tmp_path, **home)

    assert done.returncode == 1, done.stderr
    assert "The loss (not a number) is nan at epoch 0, step 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "leaked: False" in done.stdout
    good, bad = sorted((tmp_path / "sweep").glob("[01]_*"))
    assert (Run(good).metrics()["status"], Run(bad).metrics()["status"]) == ("finished", "failed")

    finished, failed = recorded(good), recorded(bad)
    assert (finished["state"], finished["exit_code"]) == ("finished", 0)
    assert (failed["state"], failed["exit_code"]) == ("failed", 1)
    assert finished["name"] == "tiny-bce-article-seed0"
    assert set(finished["tags"]) == {"synthetic", "tiny", "bce", "article"}
    assert finished["config"]["choices"]["data"] == "synthetic"
    for key in ("val/iou", "test/iou", "heldout/iou", "threshold_best"):
        assert finished["summary"][key] == pytest.approx(Run(good).metrics()[key])
    assert finished["summary"]["loss_name"] == "bce"
