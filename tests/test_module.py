"""The module: what the loss sees, what the scheduler is told, and that fitting scores as inference does."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from small import Small, make_images, small_net
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from saltseg.callbacks import LossSchedule
from saltseg.components import instantiate
from saltseg.config import CONF
from saltseg.data.images import IGNORE
from saltseg.data.prepare import Fit
from saltseg.errors import SaltsegError
from saltseg.inference import Predictor
from saltseg.metrics import Counts
from saltseg.module import SaltModule, SaltNet
from saltseg.scoring import count

SGD = partial(torch.optim.SGD, lr=0.1)
LOSSES = [
    (file.stem, k) for file in sorted((CONF / "loss").glob("*.yaml")) for k, _ in enumerate(OmegaConf.load(file).phases)
]


def loss_of(name: str, phase: int) -> nn.Module:
    config = OmegaConf.create({"loss": OmegaConf.load(CONF / f"loss/{name}.yaml")})
    loss: nn.Module = instantiate(config.loss)["phases"][phase]["loss"]
    return loss


class Given(nn.Module):
    """A net whose logits are given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize(("name", "phase"), LOSSES)
def test_pixels_that_do_not_count_change_nothing(name: str, phase: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is predicted there, the loss is the same and pulls at the other pixels alone."""
    rng = torch.Generator().manual_seed(0)
    mask = (torch.rand(3, 1, 32, 32, generator=rng) < 0.4).to(torch.uint8)
    ignored = torch.rand(mask.shape, generator=rng) < 0.3
    ignored[2] = True  # an image without any label
    mask[ignored] = IGNORE
    logits = 2 * torch.randn(mask.shape, generator=rng)

    def step(given: Tensor) -> tuple[Tensor, Tensor]:
        net = Given(given)
        module = SaltModule(SaltNet(net), SGD)
        module.loss, module.loss_name = loss_of(name, phase), name
        monkeypatch.setattr(module, "log", lambda *_, **__: None)
        loss = module.training_step({"image": torch.zeros_like(mask), "mask": mask}, 0)
        loss.backward()
        assert net.logits.grad is not None
        return loss.detach(), net.logits.grad

    loss, gradient = step(logits)
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).any()
    other_loss, other_gradient = step(torch.where(ignored, 9.0, logits))
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SaltModule(SaltNet(Given(torch.full((1, 1, 32, 32), value))), SGD)
    module.loss, module.loss_name = nn.BCEWithLogitsLoss(), "bce"
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = {"image": torch.zeros(1, 1, 32, 32), "mask": torch.zeros(1, 1, 32, 32, dtype=torch.uint8)}
    with pytest.raises(SaltsegError, match=r"loss \(bce\) is (nan|inf) at epoch 0, step 7.*last\.ckpt"):
        module.training_step(batch, 7)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_memory_format_of_the_weights_is_that_of_the_images(layout: torch.memory_format) -> None:
    net = SaltNet(small_net().to(memory_format=layout))
    seen: list[Tensor] = []
    net.net.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = net(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    assert seen[0].is_contiguous(memory_format=layout)
    assert (logits.shape, logits.dtype) == ((2, 1, 32, 32), torch.float32)


def test_a_net_is_normalised_as_its_encoder_asks() -> None:
    assert SaltNet(small_net()).normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    net = small_net()
    net.mean, net.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # type: ignore[assignment]
    assert SaltNet(net).normalize(torch.full((1, 1, 1, 1), 255)).flatten().tolist() == [2, 2, 2]


def fit(path: Path, scheduler: Any, epochs: int = 2) -> Trainer:
    """Ten images in batches of four: three steps an epoch."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=str(path),
        callbacks=[LossSchedule([{"epoch": 0, "name": "bce", "loss": nn.BCEWithLogitsLoss()}])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    data = Small(make_images([(32, 32)] * 17), batch_size=4)
    trainer.fit(SaltModule(SaltNet(small_net()), SGD, scheduler), datamodule=data)
    return trainer


def scheduler_of(name: str) -> Any:
    node = OmegaConf.merge({"optimizer": {"lr": 0.1}}, {"scheduler": OmegaConf.load(CONF / f"scheduler/{name}.yaml")})
    return instantiate(node.scheduler)


def test_one_cycle_is_told_the_steps_of_the_whole_training(tmp_path: Path) -> None:
    trainer = fit(tmp_path, scheduler_of("one_cycle"))
    (config,) = trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, OneCycleLR)
    assert (config.scheduler.total_steps, config.interval) == (6, "step")
    assert config.scheduler.last_epoch == 6
    assert trainer.optimizers[0].param_groups[0]["max_lr"] == 0.1


def test_cosine_ends_at_0(tmp_path: Path) -> None:
    trainer = fit(tmp_path, scheduler_of("cosine"))
    (config,) = trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, CosineAnnealingLR)
    assert (config.scheduler.T_max, config.interval) == (6, "step")
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_a_scheduler_that_knows_its_steps_keeps_them(tmp_path: Path) -> None:
    (config,) = fit(tmp_path, partial(CosineAnnealingLR, T_max=9)).lr_scheduler_configs
    assert (config.scheduler.T_max, config.interval) == (9, "epoch")


def test_plateau_watches_the_monitor(tmp_path: Path) -> None:
    (config,) = fit(tmp_path, scheduler_of("plateau")).lr_scheduler_configs
    assert isinstance(config.scheduler, ReduceLROnPlateau)
    assert (config.monitor, config.interval, config.scheduler.mode) == ("val/iou", "epoch", "max")


def test_without_a_scheduler_the_rate_stays(tmp_path: Path) -> None:
    trainer = fit(tmp_path, None)
    assert trainer.lr_scheduler_configs == []
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("fitting", ["pad", "resize"])
@pytest.mark.parametrize("shapes", [[(101, 101)] * 17, [(101, 101), (60, 40), (50, 63), (33, 200)] * 4 + [(1, 1)]])
def test_validation_scores_as_inference_does(tmp_path: Path, fitting: Fit, shapes: list[tuple[int, int]]) -> None:
    """On the native pixels, at 0.5, ignored ones left out, in batches of whatever sizes."""
    data = Small(make_images(shapes, ignore=True), val=12, test=2, batch_size=5, fit=fitting)
    module = SaltModule(SaltNet(small_net(seed=3)), SGD, fit=fitting)
    module.loss, module.loss_name = nn.BCEWithLogitsLoss(), "bce"
    trainer = Trainer(
        accelerator="cpu", logger=False, default_root_dir=str(tmp_path), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    (logged,) = trainer.validate(module, datamodule=data, verbose=False)
    val = data.part("val")
    maps = Predictor([module.net], fit=fitting, batch_size=3)(val.images)
    summary = Counts.of(count(maps, val.masks, [0.5])).summary()
    assert 0.05 < logged["val/iou"] < 0.95
    for name in ("iou", "dice", "map", "micro_iou", "iou_salt", "empty_correct"):
        assert logged[f"val/{name}"] == pytest.approx(summary[name].item(), abs=1e-3), name


@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_a_net_may_see_the_images_smaller(shrink: int) -> None:
    net = nn.Conv2d(3, 1, 3, padding=1)
    whole = SaltNet(net)
    net.shrink = shrink  # type: ignore[assignment]
    images = torch.randint(0, 255, (2, 1, 128, 256), dtype=torch.uint8)
    small = nn.functional.avg_pool2d(images.float(), shrink)  # exactly so for 2; at 4 the two pixels in the middle
    logits = SaltNet(net)(images)
    assert logits.shape == images.shape
    if shrink < 4:
        expected = nn.functional.interpolate(whole(small), (128, 256), mode="bilinear")
        assert torch.allclose(logits, expected, atol=1e-5)
    odd = SaltNet(net)(images[..., :96, :160])  # half of 96 is no multiple of 32
    assert odd.shape[-2:] == (96, 160)
