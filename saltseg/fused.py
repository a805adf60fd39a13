"""A training step's batch norm, the sum and the activation behind it in one pass over the maps each way.

The classes take the place of layers' own, see :mod:`saltseg.cpu`; torch compiles what they compute.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Least and largest output of an activation.
Bounds = tuple[float | None, float | None]


def fusable(norm: Any) -> bool:
    """Whether a batch norm takes its moments from the batch and keeps a running mean of them, as it mostly does."""
    return bool(norm.training and norm.momentum is not None and norm.track_running_stats and norm.affine)


class NormRelu:
    """A batch norm that is followed by a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self, x) if fusable(self) else functional.relu(super().forward(x))  # type: ignore[misc]


class Done:
    """A ReLU whose work :class:`NormRelu` has done."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class NormAct:
    """timm's batch norm, which has its activation inside."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        if not fusable(self):
            return super().forward(x)  # type: ignore[misc, no-any-return]
        bounds = {nn.ReLU: (0.0, None), nn.ReLU6: (0.0, 6.0), nn.Identity: (None, None)}
        return norm_act(self, x, bounds=bounds[type(self.act)])


class Residual:
    """A block of a ResNet: its last batch norm, the sum and the ReLU in one; the others with their ReLU."""

    training: bool

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        if not fusable(block.bn1):
            return super().forward(x)  # type: ignore[misc, no-any-return]
        same = x if block.downsample is None else block.downsample(x)
        names = [n for n in ("1", "2", "3") if hasattr(block, f"conv{n}")]
        for name in names:
            x = getattr(block, f"conv{name}")(x)
            x = norm_act(getattr(block, f"bn{name}"), x, same if name == names[-1] else None)
        return x


def norm_act(norm: Any, x: Tensor, plus: Tensor | None = None, bounds: Bounds = (0.0, None)) -> Tensor:
    """A training step of the batch norm ``norm`` on B×C×H×W, plus another map, clamped to ``bounds``."""
    result: Tensor = _NormAct.apply(x, norm.weight, norm.bias, plus, norm, bounds)
    return result


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None, norm: Any, bounds: Bounds
    ) -> Tensor:
        rows, added = rows_of(x), None if plus is None else rows_of(plus)
        y, mean, var, scale = _compiled(_forward)(rows, weight, bias, norm.eps, added, bounds)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(var * (len(rows) / max(len(rows) - 1, 1)), norm.momentum)
        ctx.save_for_backward(rows, y, mean, scale, weight)
        ctx.shape, ctx.added, ctx.bounds = x.shape, plus is not None, bounds
        return maps_of(y, x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, y, mean, scale, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_plus = _compiled(_backward)(
            rows_of(gradients[0]), rows, y, mean, scale, weight, ctx.added, ctx.bounds
        )
        of_maps = maps_of(of_x, ctx.shape), None if of_plus is None else maps_of(of_plus, ctx.shape)
        return of_maps[0], of_weight, of_bias, of_maps[1], None, None


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """At the first use, for torch's compiler takes a second to import.

    Any number of positions, for last batches are smaller; but a kernel for each number of channels, as parameters have
    it: one for all of them would be slower than torch's own layers.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    return torch.compile(function, dynamic=True)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, plus: Tensor | None, bounds: Bounds
) -> tuple[Tensor, ...]:
    # One pass: moments about one of the channel's own values, for squares cancel where the mean is many deviations off.
    about = x[0].float()
    centred = x.float() - about
    mean = centred.sum(0) / len(x)
    var = ((centred * centred).sum(0) / len(x) - mean * mean).clamp_min(0)
    scale = (var + eps).rsqrt()
    y = (centred - mean) * (weight * scale) + bias
    if plus is not None:
        y = y + plus.float()
    if bounds != (None, None):
        y = y.clamp(*bounds)
    return y.to(x.dtype), mean + about, var, scale


def _backward(
    gradient: Tensor, x: Tensor, y: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, added: bool, bounds: Bounds
) -> tuple[Tensor | None, ...]:
    low, high = bounds
    if low is not None:
        gradient = torch.where(y > low, gradient, 0)
    if high is not None:
        gradient = torch.where(y < high, gradient, 0)
    g = gradient.float()
    standard = (x.float() - mean) * scale
    of_bias, of_weight = g.sum(0), (g * standard).sum(0)
    of_x = (weight * scale) * (g - of_bias / len(x) - standard * (of_weight / len(x)))
    return of_x.to(x.dtype), of_weight, of_bias, gradient if added else None


def rows_of(maps: Tensor) -> Tensor:
    """B×C×H×W to (B·H·W)×C; no copy of channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def maps_of(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`rows_of`, channels_last."""
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
