"""What goes wrong is one message that names the key or file, and a status; never a traceback, never half a result."""

import pytest
import tgs_trees
import torch
from runs import OWN, TINY, failure, files, message, shell, tiny_run, weights

from saltseg import dataset, evaluate, train
from saltseg.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("good") / "run", "trainer.max_epochs=1")


@pytest.fixture
def own(tmp_path):
    """Writes a user's YAML; gives the folder for --config-dir."""

    def write(name, text):
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path / "own"

    return write


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["modle=resnet18"], ["modle", "'model'"]),
        (["+modle=resnet18"], ["modle", "'model'"]),
        (["+seeed=1"], ["seeed", "'seed'"]),
        (["data.bach_size=4"], ["data.bach_size", "'batch_size'"]),
        (["data.split.trian=4"], ["data.split.trian", "'train'"]),
        (["model=resnet81"], ["model=resnet81", "'resnet18'"]),
        (["experiment=article_resnet81"], ["experiment=article_resnet81", "'article_resnet18'"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "'max_epochs'"]),
        (["weights=bset"], ["bset", "best"]),
        (["threshold=half"], ["threshold: ", "half", "Float"]),
        (["seed=1,2"], ["seed"]),
        (["model=[resnet18"], ["[resnet18"]),
    ],
)
def test_an_unknown_key_group_or_option_names_the_near_miss(capfd, tmp_path, arguments, said):
    shown = failure(capfd, train.main, *TINY, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert all(word in shown for word in said), shown
    assert not Run(tmp_path / "run").config_file.exists()


def test_a_key_without_a_default_is_asked_for(capfd, tmp_path):
    shown = failure(capfd, train.main, "data=folder", f"hydra.run.dir={tmp_path / 'run'}")
    assert shown == "data.images must be given: add data.images=… to the command."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["threshold=1.5"], ["threshold"]),
        (["+trainer.max_epoch=3"], ["trainer: ", "'max_epoch'", "'max_epochs'"]),
        (["data.fit=stretch"], ["data.fit", "pad", "resize"]),
        (["data.normalize=imagnet"], ["data.normalize", "'imagenet'"]),
        (["data.batch_size=0"], ["data.batch_size"]),
        (["data.num_workers=-1"], ["data.num_workers"]),
        (["data.split.stratify=depth"], ["stratify", "coverage"]),
        (["data.split.train=0.5"], ["data.split"]),
        (["trainer.precision=12"], ["trainer", "12"]),
        (["trainer.gradient_clip_algorithm=foo"], ["foo"]),
        (["optimizer.lr=-1"], ["optimizer", "-1"]),
        (["monitor=val/iuo"], ["monitor", "'val/iou'"]),
        (["+model.groups=2"], ["groups"]),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(capfd, tmp_path, arguments, said):
    shown = failure(capfd, train.main, *TINY, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert all(word in shown for word in said), shown
    assert not Run(tmp_path / "run").metrics_file.exists() or Run(tmp_path / "run").metrics()["status"] == "failed"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "augmentation/mine.yaml",
            "transforms: {flip: {_target_: albumentations.HorizontalFlip, prob: 1}}",
            ["augmentation.transforms.flip", "HorizontalFlip", "'prob'"],
        ),
        ("augmentation/mine.yaml", "transforms: {flip: {_target_: albumentations.HorizontalFlop}}", ["HorizontalFlip"]),
        (
            "optimizer/mine.yaml",
            "{_target_: torch.optim.Adam, _partial_: true, lr: 1, betta: 1}",
            ["optimizer", "'betta'", "'betas'"],
        ),
        ("model/mine.yaml", "{_target_: os.system, command: touch MARKER}", ["os.system", "trust"]),
        ("data/mine.yaml", "{defaults: [synthetic, _self_], bach_size: 4}", ["data: ", "'bach_size'", "'batch_size'"]),
        ("data/mine.yaml", "{defaults: [synthetic, _self_], split: {trian: 4}}", ["trian"]),
        (
            "loss/mine.yaml",
            "phases: [{epoch: 1, name: bce, loss: {_target_: torch.nn.BCEWithLogitsLoss}}]",
            ["loss.phases", "0"],
        ),
        ("experiment/mine.yaml", "# @package _global_\ntreshold: 0.4", ["treshold", "'threshold'"]),
        ("experiment/mine.yaml", "# @package _global_\ntrainer: {max_epoch: 4}", ["trainer.max_epoch", "'max_epochs'"]),
        ("model/mine.yaml", "_target_: [", ["mine.yaml"]),
    ],
)
def test_a_users_yaml_is_checked_as_the_command_line_is(capfd, tmp_path, monkeypatch, own, name, text, said):
    monkeypatch.chdir(tmp_path)
    folder = own("model/tiny.yaml", (OWN / "model" / "tiny.yaml").read_text())
    own(name, text)
    chosen = f"{name.partition('/')[0]}=mine"
    shown = failure(capfd, train.main, *TINY, chosen, f"hydra.run.dir={tmp_path / 'run'}", own=folder)
    assert all(word in shown for word in said), shown
    assert not (tmp_path / "MARKER").exists()
    assert not Run(tmp_path / "run").metrics_file.exists() or Run(tmp_path / "run").metrics()["status"] == "failed"


@pytest.mark.parametrize("state", ["missing", "empty"])
@pytest.mark.parametrize("command", [train, dataset])
def test_tgs_that_is_not_there_says_how_to_get_it(capfd, tmp_path, command, state):
    root = tmp_path / "tgs"
    if state == "empty":
        root.mkdir()
    shown = failure(capfd, command.main, "data=tgs", f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}")
    assert all(word in shown for word in ("data.root", str(root), "action=download")), shown


def test_a_split_larger_than_the_data_gives_both_numbers(capfd, tmp_path):
    root = tgs_trees.write(tmp_path / "tgs", tgs_trees.zips())
    shown = failure(capfd, train.main, "data=tgs", f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}")
    assert all(word in shown for word in ("data.split", "3420", "there are 4")), shown
    assert Run(tmp_path / "run").metrics()["status"] == "failed"


@pytest.mark.parametrize("command", [train, evaluate])
def test_a_directory_that_holds_a_run_is_not_written_into(capfd, run, command):
    arguments = TINY if command is train else [f"run={run.path}"]
    before = {name: (run.path / name).read_bytes() for name in files(run.path)}
    shown = failure(capfd, command.main, *arguments, f"hydra.run.dir={run.path}")
    assert all(word in shown for word in ("hydra.run.dir", str(run.path), "already holds a run")), shown
    after = {name: (run.path / name).read_bytes() for name in files(run.path)}
    assert after.keys() - before.keys() <= {"evaluate.log"}
    assert {name: after[name] for name in before} == before


def test_a_checkpoint_that_cannot_be_resumed_is_refused(capfd, run, tmp_path):
    def said(checkpoint, *overrides):
        directory = tmp_path / f"run{len(files(tmp_path))}"
        shown = failure(capfd, train.main, *TINY, *overrides, f"ckpt_path={checkpoint}", f"hydra.run.dir={directory}")
        assert str(checkpoint) in shown
        assert Run(directory).metrics()["status"] == "failed"
        return shown

    assert "does not exist" in said(tmp_path / "nowhere" / "last.ckpt")
    assert "another model" in said(run.last_checkpoint, "model.kernel_size=3")
    (tmp_path / "loose.ckpt").write_bytes(run.last_checkpoint.read_bytes())
    assert "history.csv" in said(tmp_path / "loose.ckpt")
    damaged = Run(tmp_path / "damaged")
    damaged.checkpoints.mkdir(parents=True)
    damaged.history_file.write_bytes(run.history_file.read_bytes())
    for content in (b"no checkpoint", run.last_checkpoint.read_bytes()[:1000]):
        damaged.last_checkpoint.write_bytes(content)
        assert "can't be read" in said(damaged.last_checkpoint)
    torch.save({"weights": torch.zeros(3)}, damaged.last_checkpoint)
    assert "can't be read" in said(damaged.last_checkpoint)


def test_evaluate_says_what_it_needs(capfd, run, tmp_path):
    def said(*arguments):
        return failure(capfd, evaluate.main, *arguments, f"hydra.run.dir={tmp_path / 'scored'}")

    assert "run" in said()
    assert "not a run" in said(f"run={tmp_path}")
    assert "'test'" in said(f"run={run.path}", "split=tset")
    assert "train" in said(f"run={run.path}", "split=train")
    assert "threshold=2" in said(f"run={run.path}", "threshold=2")
    assert "threshold=bets" in said(f"run={run.path}", "threshold=bets")
    assert not (tmp_path / "scored" / "metrics.json").exists()


NOT_A_NUMBER_FROM_THE_SECOND_EPOCH_ON = """
phases:
  - {epoch: 0, name: bce, loss: {_target_: torch.nn.BCEWithLogitsLoss}}
  - epoch: 1
    name: not a number
    loss:
      _target_: saltseg.losses.WeightedSum
      losses: {bce: {_target_: torch.nn.BCEWithLogitsLoss}}
      weights: {bce: .nan}
"""


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(capfd, tmp_path, own):
    folder = own("model/tiny.yaml", (OWN / "model" / "tiny.yaml").read_text())
    own("loss/broken.yaml", NOT_A_NUMBER_FROM_THE_SECOND_EPOCH_ON)
    broken = Run(tmp_path / "run")
    shown = failure(capfd, train.main, *TINY, "loss=broken", f"hydra.run.dir={broken.path}", own=folder)
    assert all(word in shown for word in ("not a number", "epoch 1", "step 0", "last.ckpt")), shown
    assert broken.metrics()["status"] == "failed"
    assert torch.load(broken.last_checkpoint, weights_only=True)["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in weights(broken.last_checkpoint).values())
    unfinished = failure(capfd, evaluate.main, f"run={broken.path}", f"hydra.run.dir={tmp_path / 'scored'}")
    assert "did not finish" in unfinished
    assert f"ckpt_path={broken.last_checkpoint}" in unfinished


def test_weights_that_are_no_numbers_are_not_kept_either(capfd, tmp_path):
    # One step an epoch: the loss is a number, but the step it leads to is not.
    hopeless = ("data.batch_size=24", "optimizer=sgd", "optimizer.lr=1e40", "optimizer.weight_decay=0")
    failure(capfd, train.main, *TINY, *hopeless, f"hydra.run.dir={tmp_path / 'run'}")
    assert not Run(tmp_path / "run").last_checkpoint.exists()


def test_a_mistake_in_a_shell_is_one_message_and_a_status(tmp_path):
    done = shell("-m", "saltseg.train", "data=tgs", "data.root=nowhere", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 1
    assert message(done.stderr).startswith("data.root: nowhere does not exist")
