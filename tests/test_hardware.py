import copy

import pytest
import torch
from torch import nn

from saltseg.hardware import detect, suit_cpu


def depthwise() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 1, 1))


def test_depthwise_convolutions_leave_autocast_and_the_rest_stays() -> None:
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


def test_a_deep_copy_computes_with_its_own_weights() -> None:
    net = depthwise()
    suit_cpu(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert twin(torch.ones(1, 3, 8, 8)).abs().max() == 0
    assert net(torch.ones(1, 3, 8, 8)).abs().max() > 0


@pytest.mark.parametrize(
    ("amx", "avx", "precision"),
    [(True, True, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")],
)
def test_bf16_only_where_a_cpu_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert detect.__wrapped__().precision == precision
