"""The loss in force, the history and the checkpoints, also across a resume."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from small import Small, make_images, small_net
from torch import Tensor, nn

from saltseg.callbacks import Checkpoint, EpochSeed, History, LossSchedule, Progress
from saltseg.components import instantiate
from saltseg.config import CONF
from saltseg.errors import SaltsegError
from saltseg.module import SaltModule, SaltNet
from saltseg.run import HISTORY_COLUMNS, Run

SHAPES = [(32, 32)] * 17  # ten of them train


def schedule(name: str) -> LossSchedule:
    config = OmegaConf.create({"loss": OmegaConf.load(CONF / f"loss/{name}.yaml")})
    return LossSchedule(instantiate(config.loss)["phases"])


class Steepness(nn.Module):
    """BCE, times a number by which a phase is told from another."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.factor * nn.functional.binary_cross_entropy_with_logits(logits, target)


def fitted(
    path: Path, epochs: int, *, resume: Path | None = None, lr: float = 0.1, dropout: float = 0.2
) -> tuple[Trainer, SaltModule]:
    """Fit a tiny net that draws while it learns; the loss changes at epochs 1 and 2."""
    run = Run.begin(path)
    run.write_config({})
    if resume is not None:
        run.adopt(resume)
    phases = [{"epoch": k, "name": f"loss{k}", "loss": Steepness(k + 1)} for k in range(3)]
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=str(path),
        callbacks=[
            LossSchedule(phases),
            EpochSeed(0),
            History(run),
            Checkpoint(filename="best", monitor="val/iou", mode="max"),
            Checkpoint(filename="last", monitor=None, save_on_train_epoch_end=True),
            Progress(),
        ],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    net = SaltNet(nn.Sequential(nn.Dropout(dropout), small_net()))
    module = SaltModule(net, partial(torch.optim.SGD, lr=lr, momentum=0.9))
    data = Small(make_images(SHAPES), batch_size=4)
    trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
    return trainer, module


@pytest.mark.parametrize(("epoch", "name"), [(0, "bce"), (1, "bce"), (19, "bce"), (20, "dice"), (39, "dice")])
def test_the_articles_schedule(epoch: int, name: str) -> None:
    losses = {"bce": "BCEWithLogitsLoss", "dice": "DiceLoss"}
    found, loss = schedule("article").at(epoch)
    assert (found, type(loss).__name__) == (name, losses[name])


@pytest.mark.parametrize("epochs", [[], [1], [0, 5, 5], [0, 7, 3], [3, 0], [-1, 0]])
def test_phases_begin_at_0_and_ascend(epochs: list[int]) -> None:
    with pytest.raises(SaltsegError, match="begin at 0 and ascend"):
        LossSchedule([{"epoch": e, "name": "bce", "loss": nn.BCEWithLogitsLoss()} for e in epochs])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SaltModule]:
    """Four epochs without a stop."""
    path = tmp_path_factory.mktemp("straight")
    return path, fitted(path, 4)[1]


def test_history_has_a_row_an_epoch(straight: tuple[Path, SaltModule]) -> None:
    history = Run(straight[0]).history()
    assert tuple(history.columns) == HISTORY_COLUMNS
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert history["loss_name"].tolist() == ["loss0", "loss1", "loss2", "loss2"]
    assert history["lr"].tolist() == [0.1] * 4
    assert history.notna().all(axis=None)
    assert (history[["images_per_second", "seconds"]] > 0).all(axis=None)
    assert history[["val/iou", "val/dice", "val/map"]].stack().between(0, 1).all()


def test_the_losses_of_a_row_are_the_means_over_the_images_of_its_epoch(tmp_path: Path) -> None:
    """With weights that stay as they are, each epoch's loss is known beforehand; its last batch is a smaller one."""
    _, module = fitted(tmp_path, 3, lr=0.0, dropout=0.0)
    data = Small(make_images(SHAPES))
    history = Run(tmp_path).history()
    for part in ("train", "val"):
        images = data.part(part)
        with torch.no_grad():
            logits = [module(torch.from_numpy(i)[None, None]) for i in images.images]
        each = [
            nn.functional.binary_cross_entropy_with_logits(logit[0, 0], torch.from_numpy(m).float()).item()
            for logit, m in zip(logits, images.masks, strict=True)
        ]
        mean = sum(each) / len(each)
        assert history[f"{part}/loss"].tolist() == pytest.approx([mean, 2 * mean, 3 * mean], rel=1e-5)


@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_is_uninterrupted(straight: tuple[Path, SaltModule], tmp_path: Path, stop: int) -> None:
    """Weights to the bit, the rows, the best checkpoint; the loss in force is right at any epoch."""
    fitted(tmp_path / "before", stop)
    last = tmp_path / "before/checkpoints/last.ckpt"
    trainer, resumed = fitted(tmp_path / "after", 4, resume=last)
    path, uninterrupted = straight
    for name, weight in uninterrupted.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    timeless = [c for c in HISTORY_COLUMNS if c not in ("images_per_second", "seconds")]
    after, never = Run(tmp_path / "after").history(), Run(path).history()
    assert after[timeless].equals(never[timeless])
    best = next(c for c in trainer.checkpoint_callbacks if c.monitor)  # type: ignore[attr-defined]
    assert best.best_model_path == str(tmp_path / "after/checkpoints/best.ckpt")
    assert best.best_model_score.item() == pytest.approx(never["val/iou"].max())
    assert weights(tmp_path / "after/checkpoints/best.ckpt").equals(weights(path / "checkpoints/best.ckpt"))


class Weights(dict[str, Tensor]):
    def equals(self, other: "Weights") -> bool:
        return self.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in self.items())


def weights(file: Path) -> Weights:
    """Of a checkpoint that holds tensors and plain values only."""
    return Weights(torch.load(file, weights_only=True)["state_dict"])


def test_two_checkpoints_best_and_last(straight: tuple[Path, SaltModule]) -> None:
    path, module = straight
    assert sorted(f.name for f in (path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert weights(path / "checkpoints/last.ckpt").equals(Weights(module.state_dict()))
    kept = torch.load(path / "checkpoints/best.ckpt", weights_only=True)
    assert kept["epoch"] == Run(path).history()["val/iou"].idxmax()


def test_a_checkpoint_of_a_moved_run_points_to_where_it_is_now(tmp_path: Path) -> None:
    checkpoint = Checkpoint(filename="best", monitor="val/iou", mode="max")
    checkpoint.dirpath = str(tmp_path)
    there = "/long/gone/checkpoints"
    score = torch.tensor(0.7)
    state: dict[str, Any] = {
        **checkpoint.state_dict(),
        "dirpath": there,
        "best_model_score": score,
        "best_model_path": f"{there}/best.ckpt",
        "kth_best_model_path": f"{there}/best.ckpt",
        "best_k_models": {f"{there}/best.ckpt": score},
    }
    checkpoint.load_state_dict(state)
    here = str(tmp_path / "best.ckpt")
    assert (checkpoint.best_model_path, checkpoint.kth_best_model_path) == (here, here)
    assert checkpoint.best_k_models == {here: score}
    assert checkpoint.best_model_score == score
    checkpoint.load_state_dict({**state, "best_model_path": "", "kth_best_model_path": "", "best_k_models": {}})
    assert checkpoint.best_model_path == ""


def test_what_is_printed_where_a_bar_cannot_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path, 2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split(",")[0] for line in lines] == ["epoch 0: loss loss0", "epoch 1: loss loss1"]
    assert all("img/s" in line and "val IoU" in line for line in lines)
