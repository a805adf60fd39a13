import os
import re

import pytest
import tgs_trees
import yaml
from lightning import Trainer
from runs import call, composed, shell

from saltseg import train
from saltseg.components import check, instantiate, locate
from saltseg.config import CONF, choices, claim, resolved, slug
from saltseg.errors import SaltsegError

COMMANDS = sorted(file.stem for file in CONF.glob("*.yaml"))
OPTIONS = sorted(
    (file.parent.name, file.stem)
    for file in CONF.glob("*/*.yaml")
    if file.parent.name not in ("hydra", "experiment", "space")
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    with composed(command) as config:
        assert resolved(config).keys() == set(config)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_names_only_what_exists(group, option):
    with composed("train", f"{group}={option}") as config:
        assert choices()[group] == option
        check(resolved(config)[group], (), group)


def test_several_loggers_stand_beside_each_other():
    with composed("train", "logger=[wandb,tensorboard]") as config:
        assert list(config.logger) == ["wandb", "tensorboard"]


def test_callbacks_are_added_beside_the_default_ones():
    with composed("train", "callbacks=[default,early_stopping]") as config:
        assert {"best", "last", "progress", "early_stopping"} <= set(config.callbacks)


def test_every_argument_of_the_trainer_is_a_key():
    with composed("train", "trainer.limit_train_batches=3") as config:
        assert config.trainer.limit_train_batches == 3
        built = Trainer(**{k: v for k, v in resolved(config)["trainer"].items() if k != "_target_"}, logger=False)
    assert built.limit_train_batches == 3


def test_data_is_tgs_where_it_is_found_and_synthetic_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SALTSEG_TGS", raising=False)

    def chosen(*overrides):
        with composed("train", *overrides) as config:
            return choices()["data"], config.data.get("root")

    assert chosen() == ("synthetic", None)
    elsewhere = str(tgs_trees.write(tmp_path / "elsewhere", tgs_trees.zips()))
    monkeypatch.setenv("SALTSEG_TGS", elsewhere)
    assert chosen() == ("tgs", elsewhere)
    assert chosen("data=synthetic") == ("synthetic", None)
    monkeypatch.delenv("SALTSEG_TGS")
    tgs_trees.write(tmp_path / "data" / "tgs", tgs_trees.folders())
    assert chosen() == ("tgs", "data/tgs")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.nn.init.normal_",
        "torchmetrics.utilities.data.dim_zero_cat",
        "saltseg.run.subprocess.run",
        "saltseg.run.Path",
        "saltseg.dataset.download",
        "saltseg.components.locate",
        "saltseglike.Thing",
    ],
)
def test_a_configuration_runs_no_code_but_components(target):
    with pytest.raises(SaltsegError, match=re.escape(target)):
        locate(target)


def test_trust_widens_what_a_configuration_may_name():
    mine = {"_target_": "runs.StopAt", "epoch": 3}
    with pytest.raises(SaltsegError, match=r"trust=\[runs\]"):
        instantiate(mine)
    assert instantiate(mine, trust=["runs"]).epoch == 3


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"_target_": "albumentations.HorizontalFlop"}, "HorizontalFlip"),
        ({"_target_": "albumentations.Affine", "scal": 1}, "scale"),
        ({"_target_": "torch.optim.AdamW", "_partial_": True, "weight_deacy": 0}, "weight_decay"),
        ({"_target_": "segmentation_models_pytorch.losses.DiceLoss", "mode": "binary", "smoth": 1}, "smooth"),
        ({"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/iou", "patient": 3}, "patience"),
        ({"losses": [{"_target_": "torch.nn.BCEWithLogitsLoss", "reducton": "sum"}]}, "reduction"),
        ({"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 1, "groups": 2}, "groups"),
    ],
)
def test_a_wrong_name_or_value_of_a_component_is_said_with_what_was_meant(node, said):
    with pytest.raises(SaltsegError, match=said):
        instantiate(node)


def test_two_that_start_in_the_same_second_claim_different_directories(tmp_path):
    claimed = {claim.__wrapped__(str(tmp_path)) for _ in range(3)}
    assert len(claimed) == 3
    assert all(os.path.isdir(directory) for directory in claimed)  # noqa: PTH112
    assert claim(str(tmp_path)) == claim(str(tmp_path))


@pytest.mark.parametrize("overrides", ["model=a,loss=b", "", "…", "data.root=/a b/$c;'d'", "x" * 300, "--a=[1,2]"])
def test_a_slug_can_be_typed_unquoted(overrides):
    assert re.fullmatch(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,99}", slug(overrides))


def test_help_names_the_groups(capsys):
    with pytest.raises(SystemExit, match="0"):
        call(train.main, "--help")
    shown = capsys.readouterr().out
    assert "article_resnet18" in shown
    assert "efficientnet_lite0" in shown


def test_a_command_works_from_any_directory_and_leaves_nothing_when_it_only_shows(tmp_path):
    done = shell("-m", "saltseg.train", "--cfg", "job", cwd=tmp_path, SALTSEG_TGS="nowhere")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["data"]["_target_"] == "saltseg.data.synthetic.Synthetic"
    assert list(tmp_path.iterdir()) == []
