"""What makes training fast on a CPU and changes nothing but rounding.

Each speed-up is a class that takes the place of a layer's own, ``layer.__class__``: parameters, their names and copies
stay what they were. It acts while training alone; whoever scores or predicts computes as the layer's author wrote it.
What each gives is in ``docs/speed.md``.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saltseg.fused import Done, NormAct, NormRelu, Residual, maps_of, rows_of

#: oneDNN is slow where a batch has few positions: up to the first number a matrix product gives a weight's gradient
#: sooner, and up to the second the convolution itself and its input's gradient.
FEW_POSITIONS, VERY_FEW_POSITIONS = 2048, 512

Shape = Sequence[int]

#: Maps from this size on, in pixels a side, gain more by the smaller kernel of a folded upsampling than it costs.
LARGE_MAP = 32

#: Blocks of libraries that take seconds to import: by name, for a network of theirs has imported them.
UNET_BLOCK = ("segmentation_models_pytorch", "UnetDecoderBlock")
NORM_ACT = ("timm", "BatchNormAct2d")
BASIC, BOTTLENECK = ("torchvision", "BasicBlock"), ("torchvision", "Bottleneck")


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
            _become(layer, ByMatrix)
        elif _is(layer, UNET_BLOCK) and layer.interpolation_mode == "nearest":
            _become(layer, FoldedUpsampling)
    if fuse:
        _fuse(net)


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


class ByMatrix:
    """A convolution that is matrix products on small maps, at least its weight's gradient.

    For 512 channels of 4×4 pixels that takes a fifth of the time of oneDNN's own for the weight's gradient, half of it
    for the input's, two thirds for the convolution.
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
        by_matrix = _Convolution if positions <= VERY_FEW_POSITIONS else _WeightGradient
        result: Tensor = by_matrix.apply(x.to(dtype), self.weight.to(dtype), self.stride, self.padding)
        return result


class _WeightGradient(torch.autograd.Function):
    """A convolution whose weight's gradient alone is a matrix product."""

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
        patches = _patches(x, weight.shape[-2:], ctx.stride, ctx.padding)
        return of_input, _as_weight(rows_of(gradient).t() @ patches, weight.shape), None, None


class _Convolution(torch.autograd.Function):
    """A convolution by matrix products, both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        patches, matrix = _patches(x, weight.shape[-2:], stride, padding), _as_matrix(weight)
        ctx.save_for_backward(patches, matrix)
        ctx.shapes, ctx.stride, ctx.padding = (x.shape, weight.shape), stride, padding
        sizes = zip(x.shape[-2:], weight.shape[-2:], stride, padding, strict=True)
        height, width = ((n + 2 * pad - kernel) // step + 1 for n, kernel, step, pad in sizes)
        return maps_of(patches @ matrix.t(), (len(x), len(weight), height, width))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        patches, matrix = ctx.saved_tensors
        of_x, of_weight = ctx.shapes
        rows = rows_of(gradients[0])
        of_input = None
        if ctx.needs_input_grad[0]:
            size = gradients[0].shape[-2:]
            of_input = _unpatched(rows @ matrix, size, of_x, of_weight[-2:], ctx.stride, ctx.padding)
        return of_input, _as_weight(rows.t() @ patches, of_weight), None, None


def _as_matrix(weight: Tensor) -> Tensor:
    """O×C×height×width to O×(height · width · C); no copy of channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _as_weight(matrix: Tensor, shape: Shape) -> Tensor:
    """The inverse of :func:`_as_matrix`."""
    outputs, channels, height, width = shape
    return matrix.view(outputs, height, width, channels).permute(0, 3, 1, 2)


def _patches(x: Tensor, size: Shape, stride: Shape, padding: Shape) -> Tensor:
    """What a kernel sees at each of its positions: positions × (height · width · channels)."""
    (down, right), (rows, columns) = padding, size
    x = functional.pad(x.permute(0, 2, 3, 1), (0, 0, right, right, down, down)).contiguous()
    patches = x.unfold(1, rows, stride[0]).unfold(2, columns, stride[1])  # B×h×w×C×rows×columns, a view
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, rows * columns * x.shape[-1])


def _unpatched(patches: Tensor, size: Shape, shape: Shape, kernel: Shape, stride: Shape, padding: Shape) -> Tensor:
    """The adjoint of :func:`_patches`: what each pixel of B×C×H×W, ``shape``, gave to patches, summed; in float32."""
    (batch, channels, height, width), (down, right) = shape, padding
    pieces = patches.view(batch, *size, *kernel, channels)
    image = torch.zeros(batch, height + 2 * down, width + 2 * right, channels)
    for i, j in itertools.product(*map(range, kernel)):
        rows, columns = (slice(k, k + n * step, step) for k, n, step in zip((i, j), size, stride, strict=True))
        image[:, rows, columns] += pieces[:, :, :, i, j]
    return image[:, down : down + height, right : right + width].permute(0, 3, 1, 2).to(patches.dtype)


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
