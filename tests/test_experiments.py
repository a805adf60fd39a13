"""Every experiment trains two batches and is scored; a new one is tested by being there."""

import pandas as pd
import pytest
from runs import SMALL_DATA, call, composed

from saltseg import train
from saltseg.config import CONF
from saltseg.run import Run

# Those that are sweeps are tested with the sweeps.
EXPERIMENTS = sorted(f.stem for f in (CONF / "experiment").glob("*.yaml") if "MULTIRUN" not in f.read_text())
BATCHES = ("trainer.fast_dev_run=2", "data.batch_size=4")


def run_experiment(directory, name, *data):
    """Its own network; no hub is asked for weights that an experiment doesn't insist on."""
    with composed("train", f"experiment={name}") as config:
        optional = config.model.get("encoder_weights") == "auto"
    weights = ["model.encoder_weights=null"] if optional else []
    call(train.main, f"experiment={name}", *data, *BATCHES, *weights, f"hydra.run.dir={directory}")
    return Run(directory)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_for_two_batches(tmp_path, name):
    run = run_experiment(tmp_path, name, *SMALL_DATA)
    assert run.metrics()["status"] == "finished"
    assert len(run.history()) == 1
    assert run.config().choices.experiment == name
    if name == "pretrained":
        assert run.metrics()["encoder_init"].startswith("imagenet")


@pytest.mark.tgs
def test_an_experiment_runs_on_the_real_data(tmp_path, tgs_root):
    split = ("data.split.train=32", "data.split.val=8", "data.split.test=8")
    run = run_experiment(tmp_path, "article_resnet18", f"data.root={tgs_root}", *split)
    assert run.metrics()["dataset"] == "tgs"
    assert pd.read_csv(run.path / "split.csv")["split"].value_counts().to_dict() == {"train": 32, "val": 8, "test": 8}
    assert pd.read_csv(run.path / "predictions.csv")["depth"].between(50, 959).all()
