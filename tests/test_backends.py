"""A network on another runtime gives what PyTorch gives, in batches and sizes of any kind, and leaves no noise."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small import make_images, small_net
from torch import Tensor, nn

from saltseg.backends import Backend, on_backend
from saltseg.data.tgs import TGS
from saltseg.errors import SaltsegError
from saltseg.inference import Predictor
from saltseg.models.smp import smp_model
from saltseg.models.unet import UNetResNet18
from saltseg.module import SaltNet
from saltseg.scoring import Part

pytest.importorskip("onnxruntime")

MIXED = [(101, 101)] * 5 + [(60, 40), (33, 200), (1, 1)]
ELSEWHERE = ["onnx", pytest.param("openvino", marks=pytest.mark.openvino)]


def apart(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def dynamic(net: nn.Module) -> nn.Module:
    """With statistics of batch norm that suit its random weights, so that its answers have a range."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 64, 64))
    return net


@pytest.mark.parametrize("backend", ELSEWHERE)
@pytest.mark.parametrize("normalize", ["imagenet", "tile"])
def test_it_stands_in_for_the_network_in_the_predictor(backend: Backend, normalize: Any) -> None:
    images = make_images(MIXED).images
    nets = [SaltNet(small_net(seed), normalize) for seed in range(2)]
    there = [on_backend(net, backend) for net in nets]
    for tta in ("none", "hflip"):
        for size in (2, 5):
            options: dict[str, Any] = {"tta": tta, "batch_size": size}
            expected = Predictor(nets, **options)(images)
            assert np.ptp(expected[0]) > 0.1
            assert apart(Predictor(there, memory_format="channels_last", **options)(images), expected) < 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNetResNet18(None),
        lambda: smp_model("Unet", "tu-tf_efficientnet_lite0", None),  # its padding depends on the size
        lambda: smp_model("Unet", "mobilenet_v2", None),
        lambda: smp_model("FPN", "resnet18", None),
    ],
)
def test_real_architectures_agree_at_sizes_that_they_were_not_traced_with(make: Any) -> None:
    net = SaltNet(dynamic(make())).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = on_backend(net, "onnx")
    for shape in ((1, 1, 32, 160), (3, 1, 64, 32)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255
        with torch.inference_mode():
            expected = net(images)
            assert expected.std() > 0.01
            assert (there(images) - expected).abs().max() < 1e-3 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("backend", ELSEWHERE)
def test_it_takes_what_the_network_takes_and_leaves_that_as_it_was(backend: Backend) -> None:
    net = SaltNet(small_net()).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    there = on_backend(net, backend)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert list(there.parameters()) == []
    images = torch.randint(0, 256, (2, 1, 64, 32), dtype=torch.uint8)
    for given in (
        images,
        images.float(),
        images.double(),
        images.flip(-1),
        images.to(memory_format=torch.channels_last),
    ):
        logits = there(given)
        assert (logits.shape, logits.dtype) == (given.shape, torch.float32)
        assert torch.allclose(logits, net(given), atol=1e-4)


def test_torch_is_the_network_itself() -> None:
    net = SaltNet(small_net())
    assert on_backend(net, "torch") is net


class OfOneSize(nn.Module):
    """Divides by the height as a number, which a trace takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1.0 if int(x.shape[-2]) == 96 else -1.0)


@pytest.mark.parametrize("backend", ELSEWHERE)
def test_a_network_whose_trace_holds_for_one_size_only_is_refused(backend: Backend) -> None:
    with pytest.raises(SaltsegError, match=rf"backend={backend} doesn't agree with PyTorch"):
        on_backend(SaltNet(OfOneSize()), backend)


def test_a_network_without_an_onnx_form_is_refused_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SaltsegError, match="no ONNX form for images of any size"):
        on_backend(SaltNet(nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(5))), "onnx")
    assert capfd.readouterr() == ("", "")


def test_an_unknown_backend_names_those_there_are() -> None:
    with pytest.raises(SaltsegError, match=r"backend=onyx.*'onnx'"):
        on_backend(SaltNet(small_net()), "onyx")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("onnx", "onnxruntime", "export"),
        ("onnx", "onnx", "export"),
        ("openvino", "openvino", "openvino"),
        ("openvino", "onnx", "openvino"),
    ],
)
def test_a_missing_package_is_named(
    backend: Backend, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SaltsegError, match=rf"backend={backend} needs {package}: pip install 'saltseg\[{extra}\]'"):
        on_backend(SaltNet(small_net()), backend)


@pytest.mark.openvino
def test_openvino_needs_no_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    on_backend(SaltNet(small_net()), "openvino")


@pytest.mark.tgs
@pytest.mark.openvino
def test_scores_on_tgs_are_the_same_on_every_backend(tgs_root: Path) -> None:
    """With a network of two layers that finds bright pixels; docs/export.md has those of trained ones."""
    data = TGS(root=tgs_root, split={"train": 3420, "val": 380, "test": 200})
    test = data.part("test")
    net = SaltNet(small_net(3))
    with torch.no_grad():  # half of its pixels on either side of the threshold
        logits = torch.cat([net(torch.from_numpy(i)[None, None]).flatten() for i in test.images])
        net.net.get_submodule("last").bias -= logits.median()
    iou = {}
    for backend in ("torch", "onnx", "openvino"):
        maps = Predictor([on_backend(net, backend)])(test.images)  # type: ignore[arg-type]
        iou[backend] = float(Part.of(test, maps).at(0.5).iou[:, 0].mean())
    expected = iou["torch"]
    assert 0.1 < expected < 0.9
    assert iou["onnx"] == pytest.approx(expected, abs=1e-5)
    assert iou["openvino"] == pytest.approx(expected, abs=1e-5)
