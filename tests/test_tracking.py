"""Weights & Biases without an account: offline, no question, and closed as what the job was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import OWN, SMALL_DATA, shell

pytest.importorskip("wandb")

BROKEN = "phases: [{epoch: 0, name: broken, loss: {_target_: saltseg.losses.WeightedSum, losses: ${losses}}}]"
NOT_A_NUMBER = """
phases:
  - epoch: 0
    name: not a number
    loss:
      _target_: saltseg.losses.WeightedSum
      losses: {bce: {_target_: torch.nn.BCEWithLogitsLoss}}
      weights: {bce: .nan}
"""
AS_A_USER_WOULD = "import os, saltseg.train as t\ntry: t.main()\nfinally: print('leaked:', 'WANDB_MODE' in os.environ)"


def inspect(job):
    (log,) = job.glob("wandb/offline-run-*/*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--summary", "--json", str(log)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_sweep_without_an_account_leaves_one_closed_offline_run_a_job(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    own = shutil.copytree(OWN, tmp_path / "own")
    (own / "loss").mkdir()
    (own / "loss" / "broken.yaml").write_text(NOT_A_NUMBER)
    (tmp_path / "home").mkdir()
    overrides = ["-m", "loss=bce,broken", "model=tiny", *SMALL_DATA, "trainer=cpu", "trainer.max_epochs=2"]
    overrides += ["logger=wandb", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = shell("-c", AS_A_USER_WOULD, "--config-dir", own, *overrides, cwd=tmp_path, HOME=str(tmp_path / "home"))

    assert done.returncode == 1, done.stderr
    assert "leaked: False" in done.stdout
    assert "Traceback" not in done.stderr
    good, bad = sorted((tmp_path / "sweep").glob("[01]_*"))
    finished, failed = inspect(good), inspect(bad)
    print(json.dumps(finished)[:3000], json.dumps(failed)[:3000], os.listdir(tmp_path))
    assert 0
