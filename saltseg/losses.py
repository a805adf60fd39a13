"""Losses that torch and segmentation_models_pytorch lack."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saltseg.errors import SaltsegError


class WeightedSum(nn.Module):
    """The sum of several losses, each times its weight.

    Args:
        losses: named losses, each called with logits and target (``B×1×H×W``) for a scalar.
        weights: by the same names; 1 where a name is left out.

    Raises:
        SaltsegError: if there are no losses, or a weight belongs to none.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not losses or (strays := weights.keys() - losses.keys()):
            wrong = f"weights for {', '.join(sorted(strays))}" if losses else "no losses"
            raise SaltsegError(f"WeightedSum has {wrong}. Expected losses by name and weights by the same names.")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights.get(name, 1.0)) for name in losses}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        first, *others = (weight * self.losses[name](logits, target) for name, weight in self.weights.items())
        total: Tensor = sum(others, start=first)
        return total


class LovaszHinge(nn.Module):
    """The Lovász hinge of each image, averaged over the batch: a convex surrogate of 1 − IoU.

    Berman et al. 2018, arXiv 1705.08790, algorithm 1. The same as SMP's ``LovaszLoss(mode="binary", per_image=True)``,
    which walks through the batch image by image; this one sorts all images at once: half the time on two cores, and no
    queue of small kernels on a GPU.

    Takes logits and a target of 0 and 1 (``B×1×H×W``) and gives a scalar ≥ 0. It is 0 where every pixel is right by a
    margin of 1; an image without salt contributes its worst pixel's error alone.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, target = logits.flatten(1), target.flatten(1)
        errors, order = (1 - logits * (2 * target - 1)).sort(dim=1, descending=True)
        salt = target.gather(1, order)
        total = salt.sum(1, keepdim=True)
        # IoU lost when the k worst pixels are wrong; its steps weigh the errors.
        lost = 1 - (total - salt.cumsum(1)) / (total + (1 - salt).cumsum(1))
        steps = torch.diff(lost, dim=1, prepend=torch.zeros_like(total))
        return (errors.relu() * steps).sum(1).mean()
