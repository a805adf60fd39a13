"""The LightningModule: a network, the loss in force, and the scores while fitting."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from saltseg.data.prepare import Fit, Normalization, Normalize, as_target, fitted_length, stretch, unfit
from saltseg.errors import SaltsegError
from saltseg.metrics import SegmentationScores

#: The logit that stands in for pixels that don't count. With a target of 0 it costs nothing under any loss.
CERTAINLY_NOT_SALT = -30.0

#: Names under which schedulers take the number of optimizer steps of the whole training.
STEPS = ("total_steps", "T_max", "total_iters")


class SaltNet(nn.Module):
    """Grey images as they are stored to logits of salt: normalisation and network in one.

    Args:
        net: B×3×H×W float to B×1×H×W logits. It may say by ``mean`` and ``std`` (3 numbers each) what its encoder
            was trained for; ImageNet's otherwise. And by ``shrink``, how many times smaller than the images it wants to
            see them; 1 otherwise.
        normalize: see :class:`~saltseg.data.prepare.Normalize`.
    """

    def __init__(self, net: nn.Module, normalize: Normalization = "imagenet") -> None:
        super().__init__()
        mean, std = getattr(net, "mean", (0.485, 0.456, 0.406)), getattr(net, "std", (0.229, 0.224, 0.225))
        self.normalize = Normalize(normalize, mean, std)
        self.net = net
        self.shrink = int(getattr(net, "shrink", 1))
        self.encoder_init = str(getattr(net, "encoder_init", "random"))

    def forward(self, images: Tensor) -> Tensor:
        """B×1×H×W in 0…255, H and W multiples of 32, to B×1×H×W float32 logits."""
        height, width = images.shape[-2:]
        if self.shrink > 1:
            small = (fitted_length(height // self.shrink), fitted_length(width // self.shrink))
            images = stretch(images.float(), small)
        inputs = self.normalize(images)
        if next(self.net.parameters()).is_contiguous(memory_format=torch.channels_last):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(inputs).float()
        return logits if self.shrink == 1 else stretch(logits, (height, width))


class SaltModule(LightningModule):
    """Fits a :class:`SaltNet`.

    The loss comes from a :class:`~saltseg.callbacks.LossSchedule`. While fitting, scores are at threshold 0.5 without
    test-time augmentation, whatever a run is scored at in the end: these two never change the weights.

    Args:
        net: the network.
        optimizer: from parameters to an optimizer.
        scheduler: from an optimizer to a learning-rate scheduler, or None for a constant rate. One that takes the
            number of steps (``total_steps``, ``T_max``, ``total_iters``) and isn't told is given it and moves every
            step; others move every epoch.
        fit: how the images were brought to a multiple of 32.
        monitor: what ``ReduceLROnPlateau`` watches.
    """

    loss: nn.Module
    loss_name: str

    def __init__(
        self,
        net: SaltNet,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Any] | None = None,
        fit: Fit = "pad",
        monitor: str = "val/iou",
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.fit, self.monitor = fit, monitor
        self.val_scores = SegmentationScores(threshold=0.5)

    def forward(self, images: Tensor) -> Tensor:
        """See :meth:`SaltNet.forward`."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one step."""
        return self._step(batch, batch_idx, "train")[1]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[Tensor]]:
        """Scores on the native pixels, from the B maps h×w of ``probability`` that it returns."""
        logits, _ = self._step(batch, batch_idx, "val")
        truths = batch["truth"]
        if _one_shape(truths):
            maps = unfit(logits.sigmoid(), _hw(truths[0]), self.fit)
            self.val_scores.update(maps, torch.stack(truths)[:, None])
            return {"probability": list(maps[:, 0])}
        each = [unfit(logit[None].sigmoid(), _hw(m), self.fit) for logit, m in zip(logits, truths, strict=True)]
        for probability, mask in zip(each, truths, strict=True):
            self.val_scores.update(probability, mask[None, None])
        return {"probability": [probability[0, 0] for probability in each]}

    def _step(self, batch: dict[str, Any], batch_idx: int, stage: str) -> tuple[Tensor, Tensor]:
        """Logits and loss; stops when the loss is no longer a number, before such weights are kept."""
        logits = self(batch["image"])
        target, ignored = as_target(batch["mask"])
        loss: Tensor = self.loss(logits.masked_fill(ignored, CERTAINLY_NOT_SALT), target)
        if not torch.isfinite(loss):
            raise SaltsegError(
                f"The loss ({self.loss_name}) is {loss.item()} at epoch {self.current_epoch}, step {batch_idx} "
                f"({stage}). The last good state, if an epoch was done, is checkpoints/last.ckpt of this run. Lower "
                "optimizer.lr, set trainer.gradient_clip_val=1, or rule out the precision with "
                "trainer.precision=32-true."
            )
        # Averaged by Lightning, since this module's on_train_epoch_end comes after that of the History callback.
        self.log(f"{stage}/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(target))
        return logits, loss

    def on_validation_epoch_start(self) -> None:
        """Start the epoch's scores."""
        self.val_scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        scores = self.val_scores.compute()
        self.log_dict({f"val/{name}": score for name, score in scores.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the encoder started from, which a resume can't tell from its own configuration."""
        checkpoint["encoder_init"] = self.net.encoder_init

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.net.encoder_init = checkpoint.get("encoder_init", self.net.encoder_init)

    def configure_optimizers(self) -> Any:
        """The optimizer and, if any, the scheduler with how often it moves."""
        optimizer = _made("optimizer", self.make_optimizer, (p for p in self.net.parameters() if p.requires_grad))
        if self.make_scheduler is None:
            return optimizer
        given = getattr(self.make_scheduler, "keywords", {})
        takes = signature(self.make_scheduler).parameters
        steps = next((name for name in STEPS if name in takes and given.get(name) is None), None)
        if steps is None:
            scheduler = _made("scheduler", self.make_scheduler, optimizer)
            plateau = {"monitor": self.monitor} if isinstance(scheduler, ReduceLROnPlateau) else {}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", **plateau}}
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = _made("scheduler", self.make_scheduler, optimizer, **{steps: total})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _made(what: str, maker: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What ``maker`` makes; only now, when it is called, are values such as a negative rate refused."""
    try:
        return maker(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise SaltsegError(f"{what}: {error}.") from error


def _one_shape(masks: list[Tensor]) -> bool:
    return len({m.shape for m in masks}) == 1


def _hw(mask: Tensor) -> tuple[int, int]:
    height, width = mask.shape[-2:]
    return int(height), int(width)
