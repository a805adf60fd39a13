"""The same network on another runtime: ONNX Runtime or OpenVINO instead of PyTorch, for prediction on a CPU."""

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx.symbolic_helper import parse_args
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from saltseg.data.prepare import MULTIPLE
from saltseg.errors import SaltsegError, check_choice, needed
from saltseg.hardware import cores
from saltseg.module import SaltNet

Backend = Literal["torch", "onnx", "openvino"]

#: Of 2022; the oldest in which what the graphs need is there. ONNX Runtime reads it since 1.14.
OPSET = 18

#: How far a graph may be from PyTorch in probability, both in float32.
TOLERANCE = 1e-3

Array = NDArray[np.float32]


def on_backend(net: SaltNet, backend: Backend) -> nn.Module:
    """A stand-in for ``net``: B×1×H×W in 0…255, H and W multiples of 32, to B×1×H×W float32 logits.

    Args:
        net: the trained network; it is left as it is.
        backend: ``torch`` gives ``net`` itself, ``onnx`` ONNX Runtime, ``openvino`` OpenVINO, both in float32 on
            all cores.

    Raises:
        SaltsegError: if the backend is unknown or not installed, or the network has no ONNX form that agrees with it.
    """
    check_choice("backend", backend, get_args(Backend))
    if backend == "torch":
        return net
    package, extra = ("onnxruntime", "export") if backend == "onnx" else ("openvino", "openvino")
    for name in ("onnx", package):  # torch converts by onnx
        needed(name, f"backend={backend}", extra)
    graph = to_onnx(net, torch.zeros(2, 1, 3 * MULTIPLE, 4 * MULTIPLE), "logits")
    run = onnxruntime_of(graph) if backend == "onnx" else openvino_of(graph)
    _check(net, run, backend)
    return _Elsewhere(run)


class _Elsewhere(nn.Module):
    """A network that is computed outside PyTorch; without parameters."""

    def __init__(self, run: Callable[[Array], Array]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        """B×1×H×W in 0…255, any dtype and device, to B×1×H×W float32 logits on the same device."""
        logits = self.run(images.detach().float().cpu().contiguous().numpy())
        return torch.from_numpy(logits).to(images.device)


def onnxruntime_of(model: bytes) -> Callable[[NDArray[Any]], Array]:
    """From ``image`` to the output of an ONNX model, by ONNX Runtime on all cores of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3  # errors; its warnings are about what it optimises
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def openvino_of(model: bytes) -> Callable[[NDArray[Any]], Array]:
    """From ``image`` to the output of an ONNX model, by OpenVINO on all cores of the CPU.

    In float32. In bfloat16, which it would take by itself where there is AMX, OpenVINO 2026.4 left a corrupted heap
    behind in a process that trains with PyTorch as well: it crashed later, somewhere else, each time it was tried.
    """
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    return lambda images: compiled(images)[0]


def _check(net: SaltNet, other: Callable[[Array], Array], backend: str) -> None:
    """A trace may have taken a size or a batch for a constant: compare at others than its own, in float32.

    Raises:
        SaltsegError: if the two disagree.
    """
    still = copy.deepcopy(net).cpu().eval()
    noise = torch.Generator().manual_seed(0)
    for shape in ((1, 1, MULTIPLE, 2 * MULTIPLE), (3, 1, 2 * MULTIPLE, MULTIPLE)):
        images = torch.rand(shape, generator=noise) * 255
        with torch.inference_mode():
            apart = float((still(images).sigmoid() - torch.from_numpy(other(images.numpy())).sigmoid()).abs().max())
        if not apart <= TOLERANCE:
            raise SaltsegError(
                f"backend={backend} doesn't agree with PyTorch on this network: probabilities are up to {apart:.2g} "
                "apart. Use backend=torch."
            )


def to_onnx(module: nn.Module, images: Tensor, output: str) -> bytes:
    """An ONNX model with ``image`` as its input, B×1×H×W, and ``output`` as its output; B, H and W are free.

    The exporter is the one that traces. torch.export, the newer, was tried with torch 2.14: with free H and W it does
    not come to an end within minutes on encoders with TensorFlow's padding (EfficientNet-Lite), whose padding depends
    on the size, and where it does, it takes ten times as long.

    Args:
        module: from such images to such an output; it is left as it is.
        images: an example, of the dtype of the input. None of its sizes is kept.
        output: its name.

    Raises:
        SaltsegError: if an operation of ``module`` can't be expressed.
    """
    axes = {0: "batch", 2: "height", 3: "width"}
    still = copy.deepcopy(module).cpu().eval()
    file = io.BytesIO()
    try:
        with _quiet(), _median():
            torch.onnx.export(
                still,
                (images,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=[output],
                dynamic_axes={"image": axes, output: axes},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise SaltsegError(
            f"This network has no ONNX form for images of any size: {str(error).splitlines()[0]}"
        ) from error
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says to programmers: that it is the older one, what it traces, the graph it fails on.

    Errors pass. That no traced size was taken for a constant is found by comparison, not from its warnings.
    """
    # The graph is printed by C++, switched on by a slip in torch (torchscript_exporter/utils.py, setup_onnx_logging).
    with warnings.catch_warnings(), patch.object(torch._C, "_jit_onnx_log", create=True):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _median() -> Iterator[None]:
    """Teach the exporter ``Tensor.median(dim)``: of an even number of values the lower of the two in the middle."""

    @parse_args("v", "i", "b")
    def median(g: Any, values: Any, dim: int, keepdim: bool) -> Any:
        def integer(value: int) -> Any:
            return g.op("Constant", value_t=torch.tensor([value]))

        count = g.op("Gather", g.op("Shape", values), integer(dim), axis_i=0)
        lower_half = g.op("Div", g.op("Add", count, integer(1)), integer(2))
        smallest, where = g.op("TopK", values, lower_half, axis_i=dim, largest_i=0, outputs=2)
        found = [g.op("Gather", part, integer(-1), axis_i=dim) for part in (smallest, where)]
        return found if keepdim else [g.op("Squeeze", part, integer(dim)) for part in found]

    register_custom_op_symbolic("aten::median", median, OPSET)
    try:
        yield
    finally:
        unregister_custom_op_symbolic("aten::median", OPSET)
