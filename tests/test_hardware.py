import pytest
import torch

from saltseg.hardware import detect


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
