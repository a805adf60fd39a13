"""Values worked out by hand, and agreement with the libraries."""

import math
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from saltseg.errors import SaltsegError
from saltseg.losses import LovaszHinge, WeightedSum

CONF = Path(__file__).parents[1] / "conf"
LOSSES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


def compose_loss(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=[f"+loss={name}"]).loss


def image(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)[None, None]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_file_is_a_schedule_of_losses(name: str) -> None:
    phases = compose_loss(name).phases
    epochs = [phase.epoch for phase in phases]
    assert epochs[0] == 0
    assert epochs == sorted(set(epochs))
    logits = torch.randn(4, 1, 16, 16, requires_grad=True)
    target = (torch.rand(4, 1, 16, 16) > 0.5).float()
    for phase in phases:
        value = instantiate(phase.loss)(logits, target)
        assert (value.shape, value.dtype) == ((), torch.float32)
        assert 0 < value.item() < math.inf
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_as_the_prediction_gets_better(name: str) -> None:
    target = torch.zeros(2, 1, 8, 8)
    target[:, :, 3:] = 1
    for phase in compose_loss(name).phases:
        loss = instantiate(phase.loss)
        values = [loss(sharpness * (2 * target - 1), target).item() for sharpness in (-4.0, 0.0, 0.5, 4.0)]
        assert values == sorted(values, reverse=True)


def test_the_article_switches_from_bce_to_dice_at_epoch_20() -> None:
    assert [(p.epoch, p.name) for p in compose_loss("article").phases] == [(0, "bce"), (20, "dice")]


def test_hand_computed_values() -> None:
    zeros, target = torch.zeros(1, 1, 2, 2), image([1.0, 0.0], [0.0, 0.0])
    bce, dice = (instantiate(phase.loss) for phase in compose_loss("article").phases)
    assert bce(zeros, target).item() == pytest.approx(math.log(2))
    # p = 1/2 everywhere: 1 - 2·(1/2) / (4·1/2 + 1)
    assert dice(zeros, target).item() == pytest.approx(1 - 1 / 3)
    # logits 0: every error is 1, and the steps of the lost IoU add up to 1
    assert LovaszHinge()(zeros, target).item() == pytest.approx(1)
    # errors 3 (false alarm), 1 (salt at 0), the rest right by a margin: IoU lost 1/2 by the first, 1 by both
    logits = image([0.0, 2.0], [-1.0, -5.0])
    assert LovaszHinge()(logits, target).item() == pytest.approx(3 * 1 / 2 + 1 * 1 / 2)
    # focal at p = 1/2, gamma 2: (1/2)² ln 2; Dice 2/3
    (phase,) = compose_loss("focal_dice").phases
    assert instantiate(phase.loss)(zeros, target).item() == pytest.approx(math.log(2) / 4 + 2 / 3)


def test_dice_of_a_batch_without_salt_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    (phase,) = compose_loss("dice").phases
    value = instantiate(phase.loss)(logits, torch.zeros(2, 1, 4, 4))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 1, 4, 4))


def test_lovasz_is_zero_at_a_margin_of_one_and_the_worst_error_without_salt() -> None:
    target = (torch.rand(3, 1, 9, 9) > 0.5).float()
    assert LovaszHinge()(2 * target - 1, target).item() == 0
    logits = torch.randn(1, 1, 9, 9)
    assert LovaszHinge()(logits, torch.zeros(1, 1, 9, 9)).item() == pytest.approx(1 + logits.max().item())


def test_lovasz_is_smps_per_image_lovasz_in_value_and_gradient() -> None:
    logits = torch.randn(6, 1, 13, 17, requires_grad=True)
    target = (torch.rand(6, 1, 13, 17) > torch.rand(6, 1, 1, 1)).float()
    target[0], target[1] = 0, 1
    ours = LovaszHinge()(logits, target)
    theirs = smp.losses.LovaszLoss("binary", per_image=True)(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (ours, theirs)))


def test_lovasz_does_not_see_pixels_with_a_confident_right_answer() -> None:
    """Ignored pixels are set to logit -30 and target 0."""
    logits, target = torch.randn(2, 1, 4, 4), (torch.rand(2, 1, 4, 4) > 0.5).float()
    more = torch.cat([logits, torch.full((2, 1, 4, 4), -30.0)], dim=3)
    value = LovaszHinge()(more, torch.cat([target, torch.zeros(2, 1, 4, 4)], dim=3))
    torch.testing.assert_close(value, LovaszHinge()(logits, target))


def test_weighted_sum_is_the_sum_times_the_weights() -> None:
    logits, target = torch.randn(2, 1, 5, 5), (torch.rand(2, 1, 5, 5) > 0.5).float()
    parts = {"bce": torch.nn.BCEWithLogitsLoss(), "lovasz": LovaszHinge()}
    bce, lovasz = (loss(logits, target) for loss in parts.values())
    torch.testing.assert_close(WeightedSum(parts)(logits, target), bce + lovasz)
    torch.testing.assert_close(WeightedSum(parts, {"bce": 0.25})(logits, target), 0.25 * bce + lovasz)
    torch.testing.assert_close(WeightedSum({"bce": parts["bce"]}, {"bce": 3})(logits, target), 3 * bce)


def test_weighted_sum_refuses_weights_of_nothing_and_no_losses() -> None:
    with pytest.raises(SaltsegError, match="dise"):
        WeightedSum({"dice": LovaszHinge()}, {"dise": 1})
    with pytest.raises(SaltsegError, match="no losses"):
        WeightedSum({})
