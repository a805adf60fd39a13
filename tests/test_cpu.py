"""Each speed-up gives what the plain layer gives, but for rounding."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from runs import SMALL_DATA, assert_equal_history, assert_equal_weights, call
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from saltseg import cpu, train
from saltseg.cpu import suit_cpu
from saltseg.models.unet import UNetResNet18
from saltseg.run import Run

LAST = torch.channels_last


def depthwise() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 1, 1))


def lively(net: nn.Module) -> nn.Module:
    """Batch norms with weights and running means of their own."""
    torch.manual_seed(3)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
    return net.to(memory_format=LAST)


def both(plain: nn.Module, fuse: bool) -> tuple[nn.Module, nn.Module]:
    suited = copy.deepcopy(plain)
    suit_cpu(suited, fuse=fuse)
    return plain, suited


def step(net: nn.Module, *inputs: Tensor, call: Callable[..., Tensor] | None = None) -> dict[str, Tensor]:
    """What a training step computes: the output, all gradients, the buffers afterwards."""
    inputs = tuple(i.clone().contiguous(memory_format=LAST).requires_grad_() for i in inputs)
    y = (call or net)(*inputs)
    torch.manual_seed(1)
    (y * torch.randn(y.shape)).sum().backward()
    found = {"output": y, **{f"input {k}": i.grad for k, i in enumerate(inputs) if i.grad is not None}}
    found |= {f"gradient {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in (found | dict(net.named_buffers())).items()}


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].shape == other[name].shape, name
        apart = (one[name].double() - other[name].double()).norm() / one[name].double().norm().clamp_min(1e-3)
        assert apart < tolerance, f"{name}: {apart}"


@pytest.mark.parametrize("size", [2, 4, 8, 11])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (7, 2, 3)])
@pytest.mark.parametrize("by", ["_Convolution", "_WeightGradient"])
def test_a_matrix_product_is_the_convolutions_own(by, size, kernel, stride, padding, monkeypatch):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, kernel, stride, padding, bias=False).to(memory_format=LAST)
    plain, suited = both(nn.Sequential(conv), fuse=False)
    assert isinstance(suited[0], cpu.ByMatrix)
    x = torch.randn(4, 6, size, size)
    calls = []
    function = getattr(cpu, by)
    whole = function.backward
    monkeypatch.setattr(cpu, "VERY_FEW_POSITIONS", 512 if by == "_Convolution" else 0)
    monkeypatch.setattr(function, "backward", lambda *a: calls.append(1) or whole(*a))
    assert_alike(step(plain, x), step(suited, x))
    assert calls


@pytest.mark.parametrize("skip", [0, 5])
@pytest.mark.parametrize("side", [16, 20])
def test_folded_upsampling_is_upsampling_and_convolution(skip, side):
    torch.manual_seed(0)
    plain, suited = both(lively(UnetDecoderBlock(6, skip, 4)), fuse=False)
    inputs = [torch.randn(3, 6, side, side), *([torch.randn(3, skip, 2 * side, 2 * side)] if skip else [])]

    def call(net):
        return lambda x, joined=None: net(x, 2 * side, 2 * side, skip_connection=joined)

    assert_alike(step(plain, *inputs, call=call(plain)), step(suited, *inputs, call=call(suited)))


def test_an_attention_that_wants_the_joined_map_gets_it():
    plain, suited = both(lively(UnetDecoderBlock(6, 16, 16, attention_type="scse")), fuse=False)
    inputs = [torch.randn(2, 6, 16, 16), torch.randn(2, 16, 32, 32)]

    def call(net):
        return lambda x, joined: net(x, 32, 32, skip_connection=joined)

    assert_alike(step(plain, *inputs, call=call(plain)), step(suited, *inputs, call=call(suited)))


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False), *layers)


BLOCKS = {
    "relu": lambda: sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
    "relu6": lambda: sequential(BatchNormAct2d(8, act_layer=nn.ReLU6)),
    "bare": lambda: sequential(BatchNormAct2d(8, apply_act=False)),
    "residual": lambda: nn.Sequential(BasicBlock(6, 6)),
    "strided": lambda: BasicBlock(6, 8, 2, nn.Sequential(nn.Conv2d(6, 8, 1, 2, bias=False), nn.BatchNorm2d(8))),
    "bottleneck": lambda: Bottleneck(6, 2, 1, nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8))),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_fused_normalisation_is_the_plain_one(block):
    torch.manual_seed(0)
    plain, suited = both(lively(BLOCKS[block]()), fuse=True)
    torch.manual_seed(5)
    x = 3 * torch.randn(4, 6, 12, 12) + 1
    assert_alike(step(plain, x), step(suited, x))
    x = torch.randn(3, 6, 12, 12)  # a last, smaller batch; moments have moved
    assert_alike(step(plain, x), step(suited, x))
    with torch.no_grad():
        plain.eval(), suited.eval()
        assert torch.allclose(plain(x), suited(x), rtol=1e-4, atol=1e-5)


def test_narrow_channels_far_from_their_running_mean_do_not_cancel():
    """Random blocks of 2 channels: some see nearly constant maps, whose squares about any other number would cancel."""
    for seed in range(40):
        torch.manual_seed(seed)
        plain, suited = both(lively(BLOCKS["bottleneck"]()), fuse=True)
        x = 3 * torch.randn(4, 6, 12, 12) + 1
        exact = copy.deepcopy(plain).double()(x.double())
        assert (suited(x).double() - exact).norm() < 3e-5 * exact.norm(), seed


def test_moments_far_from_zero_do_not_cancel():
    plain, suited = both(lively(sequential(nn.BatchNorm2d(8), nn.ReLU())), fuse=True)
    with torch.no_grad():
        x = torch.randn(8, 8, 16, 16).contiguous(memory_format=LAST) + 300
        assert torch.allclose(suited[1:](x), plain[1:](x), atol=2e-3)


NETS = {
    "resnet34": lambda: smp.Unet("resnet34", encoder_weights=None),
    "article": lambda: UNetResNet18(None),
    "lite0": lambda: smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None),
    "plusplus": lambda: smp.UnetPlusPlus("resnet18", encoder_weights=None),
    "fpn": lambda: smp.FPN("resnet50", encoder_weights=None),
}


@pytest.mark.parametrize("fuse", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", NETS)
def test_a_whole_network_learns_the_same(name, fuse):
    torch.manual_seed(0)
    plain, suited = both(NETS[name]().to(memory_format=LAST), fuse)
    assert plain.state_dict().keys() == suited.state_dict().keys()
    x = torch.rand(8, 3, 64, 64).contiguous(memory_format=LAST)
    target = (functional.avg_pool2d(torch.rand(8, 1, 64, 64), 9, 1, 4) > 0.5).float()

    def learn(net: nn.Module, precision: torch.dtype) -> tuple[float, Tensor]:
        net.zero_grad()
        torch.manual_seed(7)  # of dropout
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            logits = net(x)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), target)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    def turned(gradient: Tensor) -> float:
        return 1 - float(functional.cosine_similarity(exact, gradient, dim=0))

    (loss, exact), (suited_loss, gradient) = learn(plain, torch.float32), learn(suited, torch.float32)
    assert abs(loss - suited_loss) < 1e-4
    assert turned(gradient) < 1e-3
    (rough, gradient), (suited_loss, suited_gradient) = learn(plain, torch.bfloat16), learn(suited, torch.bfloat16)
    assert abs(suited_loss - loss) < abs(rough - loss) + 6e-2
    assert turned(suited_gradient) < 1.25 * turned(gradient) + 0.01  # as near to the exact one as the plain layers come
    plain.load_state_dict(suited.state_dict())
    plain.eval()
    suited.eval()
    with torch.no_grad():
        assert torch.equal(plain(x), suited(x))  # who scores computes as ever


def test_the_same_step_twice_is_the_same_to_the_bit():
    torch.manual_seed(0)
    net = lively(smp.Unet("resnet18", encoder_weights=None))
    suit_cpu(net, fuse=True)
    twin, x = copy.deepcopy(net), torch.randn(4, 3, 64, 64)
    one, other = step(net, x), step(twin, x)
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_seed_gives_the_same_run_twice_with_every_speed_up(tmp_path):
    net = ("model=smp", "model.encoder=resnet18", "model.encoder_weights=null", "model.shrink=2")
    fast = ("trainer.precision=bf16-mixed", "compile=true", "trainer.max_epochs=2", "callbacks=averaged")
    one, other = (
        call(train.main, *SMALL_DATA, "trainer=cpu", *net, *fast, f"hydra.run.dir={tmp_path}/{k}") or Run(tmp_path / k)
        for k in ("one", "other")
    )
    assert_equal_history(one, other)
    assert_equal_weights(one.last_checkpoint, other.last_checkpoint)


@pytest.mark.parametrize(
    ("precision", "compiled", "suited"),
    [("32-true", False, []), ("32-true", True, [True]), ("bf16-mixed", False, [False]), ("bf16-mixed", True, [True])],
)
def test_float32_is_the_plain_reference_unless_speed_is_asked_for(precision, compiled, suited, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "suit_cpu", lambda net, fuse: asked.append(fuse))
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", f"trainer.precision={precision}")
    call(
        train.main, *SMALL_DATA, "model=tiny", "trainer=cpu", *short, f"compile={compiled}", f"hydra.run.dir={tmp_path}"
    )
    assert asked == suited


def test_depthwise_convolutions_leave_autocast_and_the_rest_stays():
    plain, suited = depthwise(), depthwise()
    suit_cpu(suited)
    suit_cpu(suited)  # twice is once
    assert suited.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(suited(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        middle = suited[0](x)
        result = suited[1](middle)
    assert middle.dtype == result.dtype == torch.bfloat16
    assert torch.equal(result, plain[1](middle.float()).bfloat16())


def test_a_deep_copy_computes_with_its_own_weights():
    net = depthwise()
    suit_cpu(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert twin(torch.ones(1, 3, 8, 8)).abs().max() == 0
    assert net(torch.ones(1, 3, 8, 8)).abs().max() > 0


KEPT = """
import resource, torch
from saltseg.hardware import keep_memory
{call}
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20): torch.ones(1 << 24).add_(1)
work(); before = faults(); work(); print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own")
def test_memory_that_is_kept_needs_no_new_pages():
    def faults(call: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", KEPT.format(call=call)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )
        return int(done.stdout)

    assert faults("keep_memory()") < faults("") / 20
