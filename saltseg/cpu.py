"""What makes training fast on a CPU and changes nothing but rounding.

Each speed-up is a class that takes the place of a layer's own, ``layer.__class__``: parameters, their names and copies
stay what they were. It acts while training alone; whoever scores or predicts computes as the layer's author wrote it.
What each gives is in ``docs/speed.md``.
"""

import ctypes
import itertools
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: oneDNN's weight gradient is slow where a batch has few positions: below these, a matrix product does better.
FEW_POSITIONS = 2048

#: Maps from this size on, in pixels a side, gain more by the smaller kernel of a folded upsampling than it costs.
LARGE_MAP = 32

#: Blocks of libraries that take seconds to import: by name, for a network of theirs has imported them.
UNET_BLOCK = ("segmentation_models_pytorch", "UnetDecoderBlock")
NORM_ACT = ("timm", "BatchNormAct2d")
BASIC, BOTTLENECK = ("torchvision", "BasicBlock"), ("torchvision", "Bottleneck")

MADV_HUGEPAGE = 14
HUGE_PAGE = 1 << 21
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def suit_cpu(net: nn.Module, *, fuse: bool = False) -> None:
    """Let ``net`` train faster on a CPU, in place; again is no harm.

    Args:
        net: any; layers that aren't known here stay as they are.
        fuse: also compute batch normalisation, a residual sum and the activation in one pass over the maps each way,
            by kernels that torch compiles at the first step: half a minute the first time on a machine, less later.
    """
    for layer in list(net.modules()):
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            _become(layer, InFloat32)
        elif type(layer) is nn.Conv2d and layer.groups == 1 and layer.dilation == (1, 1) and layer.bias is None:
            _become(layer, GradientByMatrix)
        elif _is(layer, UNET_BLOCK) and layer.interpolation_mode == "nearest":
            _become(layer, FoldedUpsampling)
    if fuse:
        _fuse(net)


@cache
def keep_memory() -> None:
    """Have this process keep the memory that it frees, in huge pages, instead of asking for it anew in every step.

    A step allocates and frees gigabytes; each new page is cleared by the kernel first, a tenth of the time. Does
    nothing where the C library isn't glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "madvise"):
        return
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
    # The heap grows once by as much as a training may need. That is address space: nobody has touched its pages yet.
    start = libc.sbrk(0)
    libc.free(libc.malloc(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4))
    start = -(-start // HUGE_PAGE) * HUGE_PAGE
    if (size := (libc.sbrk(0) - start) // HUGE_PAGE * HUGE_PAGE) > 0:
        libc.madvise(start, size, MADV_HUGEPAGE)


def _is(layer: nn.Module, block: tuple[str, str]) -> bool:
    """Whether ``layer`` is the block of that name, of that library."""
    library, name = block
    return type(layer).__name__ == name and type(layer).__module__.partition(".")[0] == library


def _become(layer: nn.Module, faster: type) -> None:
    """Give ``layer`` the methods of ``faster`` before its own."""
    if not isinstance(layer, faster):
        # A subclass made on the spot: a wrapped forward would still be the original's in a deep copy.
        layer.__class__ = type(f"{faster.__name__}{type(layer).__name__}", (faster, type(layer)), {})


class InFloat32:
    """A depthwise convolution that leaves autocast.

    oneDNN's bf16 backward of these takes 2 to 9 times as long as float32's (channels_last, maps of 64 to 4 pixels).
    """

    training: bool

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # type: ignore[misc, no-any-return]
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = super().forward(x.float())  # type: ignore[misc]
        return y.to(x.dtype)


class GradientByMatrix:
    """A convolution whose weight gradient on small maps is one matrix product: output's gradient times patches.

    For 512 channels of 4×4 pixels that takes a sixth of the time of oneDNN's own.
    """

    training: bool
    weight: nn.Parameter
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    padding_mode: str

    def forward(self, x: Tensor) -> Tensor:
        positions = len(x) * (x.shape[-2] // self.stride[0]) * (x.shape[-1] // self.stride[1])
        plain = not self.training or not isinstance(self.padding, tuple) or self.padding_mode != "zeros"
        if plain or positions > FEW_POSITIONS or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)  # type: ignore[misc, no-any-return]
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        result: Tensor = _Convolution.apply(x.to(dtype), self.weight.to(dtype), self.stride, self.padding)
        return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0]
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        outputs, _, height, width = weight.shape
        patches = _patches(x, (height, width), ctx.stride, ctx.padding)
        of_weight = (_rows(gradient).t() @ patches).view(outputs, height, width, -1).permute(0, 3, 1, 2)
        return of_input, of_weight, None, None


def _rows(maps: Tensor) -> Tensor:
    """B×C×H×W to (B·H·W)×C; no copy of channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`_rows`, channels_last."""
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _patches(x: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """What a kernel sees at each of its positions: positions × (height · width · channels)."""
    (down, right), (rows, columns) = padding, size
    x = functional.pad(x.permute(0, 2, 3, 1), (0, 0, right, right, down, down)).contiguous()
    patches = x.unfold(1, rows, stride[0]).unfold(2, columns, stride[1])  # B×h×w×C×rows×columns, a view
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, rows * columns * x.shape[-1])


#: Which rows of a 3×3 kernel meet in each row of the 4×4 kernel of :class:`FoldedUpsampling`.
FOLD = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


class FoldedUpsampling:
    """A decoder block whose doubling of the map is part of the convolution that follows.

    Pixels doubled by "nearest" and then convolved by a 3×3 kernel are a transposed convolution of stride 2 by a 4×4
    kernel whose weights are sums of the nine: 4 products a pixel instead of 9, and no large map in between. What comes
    by the skip connection is convolved by itself instead of being joined first.
    """

    training: bool
    conv1: nn.Sequential
    conv2: nn.Sequential
    attention1: nn.Module
    attention2: nn.Module

    def forward(
        self, feature_map: Tensor, target_height: int, target_width: int, skip_connection: Tensor | None = None
    ) -> Tensor:
        shape, skip = (target_height, target_width), skip_connection
        doubles = shape == (2 * feature_map.shape[-2], 2 * feature_map.shape[-1]) and min(shape) >= LARGE_MAP
        attends = not isinstance(getattr(self.attention1, "attention", None), nn.Identity)
        if not self.training or not doubles or (attends and skip is not None):
            return super().forward(feature_map, *shape, skip)  # type: ignore[misc, no-any-return]
        conv, *rest = self.conv1
        assert isinstance(conv, nn.Conv2d)
        weight, channels = conv.weight, feature_map.shape[1]
        fold = FOLD.to(weight)
        kernel = torch.einsum("pk,oikl,ql->iopq", fold, weight[:, :channels], fold)
        x = functional.conv_transpose2d(feature_map, _laid_out(kernel), conv.bias, stride=2, padding=1)
        if skip is not None:
            x = x + functional.conv2d(skip, _laid_out(weight[:, channels:]), padding=1)
        for layer in (*rest, self.conv2, self.attention2):
            x = layer(x)
        return x


def _laid_out(weight: Tensor) -> Tensor:
    """A piece of a weight as the convolution that takes it wants it."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _fuse(net: nn.Module) -> None:
    """Join batch norms with the activations behind them, in the blocks that are known."""
    for layer in list(net.modules()):
        if _is(layer, NORM_ACT) and isinstance(layer.act, nn.ReLU | nn.ReLU6 | nn.Identity):
            _become(layer, NormAct)
        elif _is(layer, BASIC) or _is(layer, BOTTLENECK):
            _become(layer, Residual)
        stem = [getattr(layer, name, None) for name in ("bn1", "relu")]
        children = list(layer) if isinstance(layer, nn.Sequential) else stem
        for norm, act in itertools.pairwise(children):
            if type(norm) is nn.BatchNorm2d and type(act) is nn.ReLU and not isinstance(layer, Residual):
                _become(norm, NormRelu)
                _become(act, Done)


def _fusable(norm: Any) -> bool:
    """Whether a batch norm takes its moments from the batch and keeps a running mean of them, as it mostly does."""
    return bool(norm.training and norm.momentum is not None and norm.track_running_stats and norm.affine)


class NormRelu:
    """A batch norm that is followed by a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self, x) if _fusable(self) else functional.relu(super().forward(x))  # type: ignore[misc]


class Done:
    """A ReLU whose work :class:`NormRelu` has done."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class NormAct:
    """timm's batch norm, which has its activation inside."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        if not _fusable(self):
            return super().forward(x)  # type: ignore[misc, no-any-return]
        bounds = {nn.ReLU: (0.0, None), nn.ReLU6: (0.0, 6.0), nn.Identity: (None, None)}
        return norm_act(self, x, bounds=bounds[type(self.act)])


class Residual:
    """A block of a ResNet: its last batch norm, the sum and the ReLU in one; the others with their ReLU."""

    training: bool

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        if not _fusable(block.bn1):
            return super().forward(x)  # type: ignore[misc, no-any-return]
        same = x if block.downsample is None else block.downsample(x)
        names = [n for n in ("1", "2", "3") if hasattr(block, f"conv{n}")]
        for name in names:
            x = getattr(block, f"conv{name}")(x)
            x = norm_act(getattr(block, f"bn{name}"), x, same if name == names[-1] else None)
        return x


Bounds = tuple[float | None, float | None]


def norm_act(norm: Any, x: Tensor, plus: Tensor | None = None, bounds: Bounds = (0.0, None)) -> Tensor:
    """A training step of the batch norm ``norm`` on B×C×H×W, plus another map, clamped to ``bounds``."""
    result: Tensor = _NormAct.apply(x, norm.weight, norm.bias, plus, norm, bounds)
    return result


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None, norm: Any, bounds: Bounds
    ) -> Tensor:
        rows, added = _rows(x), None if plus is None else _rows(plus)
        y, mean, var, scale = _compiled(_forward)(rows, weight, bias, norm.running_mean, norm.eps, added, bounds)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(var * (len(rows) / max(len(rows) - 1, 1)), norm.momentum)
        ctx.save_for_backward(rows, y, mean, scale, weight)
        ctx.shape, ctx.added, ctx.bounds = x.shape, plus is not None, bounds
        return _maps(y, x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, y, mean, scale, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_plus = _compiled(_backward)(
            _rows(gradients[0]), rows, y, mean, scale, weight, ctx.added, ctx.bounds
        )
        of_maps = _maps(of_x, ctx.shape), None if of_plus is None else _maps(of_plus, ctx.shape)
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
    x: Tensor, weight: Tensor, bias: Tensor, about: Tensor, eps: float, plus: Tensor | None, bounds: Bounds
) -> tuple[Tensor, ...]:
    # One pass: moments about a number near the mean, without which squares would cancel.
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
