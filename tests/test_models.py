"""Every net: shapes, gradients, attributes, and errors for names that don't exist."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from saltseg.errors import SaltsegError
from saltseg.models.smp import smp_model
from saltseg.models.unet import ResNet18Encoder, UNetResNet18
from saltseg.models.weights import IMAGENET_MEAN, IMAGENET_STD

CONF = Path(__file__).parents[1] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def make(name: str, *overrides: str) -> nn.Module:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(overrides=[f"+model={name}", "model.encoder_weights=null", *overrides])
    net = instantiate(cfg.model)
    assert isinstance(net, nn.Module)
    return net


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_logits_of_the_inputs_size_and_trains_all_parameters(name: str) -> None:
    net = make(name)
    assert net.encoder_init == "random"
    assert len(net.mean) == len(net.std) == 3
    for size in ((128, 128), (160, 96)):
        logits = net(torch.randn(2, 3, *size))
        assert (logits.shape, logits.dtype) == ((2, 1, *size), torch.float32)
        assert logits.min() < 0 or logits.max() > 1  # logits, not probabilities
    logits.square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_itself_again_from_its_state(name: str) -> None:
    net, twin = make(name).eval(), make(name).eval()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(net(x), twin(x))


def test_article_unet_has_resnet18s_stages_and_transposed_convolutions() -> None:
    net = UNetResNet18(encoder_weights=None)
    maps = net.encoder(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 48), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in net.modules()) == 5
    assert (net.mean, net.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_article_encoder_is_torchvisions_resnet18_up_to_the_pooling() -> None:
    theirs = torchvision.models.resnet18().eval()
    ours = ResNet18Encoder().eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs.fc(ours(x)[-1].mean((2, 3))), theirs(x))


def test_options_reach_the_architecture() -> None:
    net = make("smp", "model.arch=unet", "model.encoder=mobilenet_v2", "+model.decoder_channels=[32,16,16,8,8]")
    assert net.segmentation_head[0].in_channels == 8
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"arch": "Unett", "encoder": "resnet18"}, "Did you mean 'Unet'"),
        ({"arch": "Unet", "encoder": "resnet81"}, "Did you mean 'resnet18'"),
        ({"arch": "Unet", "encoder": "tu-tf_efficientnet_lite9"}, "tu-tf_efficientnet_lite"),
        ({"arch": "Unet", "encoder": "tu-resnet18.a1_in1"}, "Did you mean 'a1_in1k'"),
        ({"arch": "Unet", "encoder": "resnet18", "decoder_chanels": [1]}, "Did you mean 'decoder_channels'"),
        ({"arch": "Unet", "encoder": "resnet18", "activation": "sigmoid"}, "model.activation"),
        ({"arch": "Unet", "encoder": "resnet18", "shrink": 0}, "model.shrink=0"),
        ({"arch": "DPT", "encoder": "resnet18"}, "SMP can't build this"),
    ],
)
def test_misspelt_names_are_refused_with_the_nearest(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(SaltsegError, match="model\\.") as caught:
        smp_model(**arguments, encoder_weights=None)  # type: ignore[arg-type]
    assert told in str(caught.value)


def test_the_articles_unet_and_our_losses_come_without_smp_and_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """These take seconds to import."""
    for library in ("segmentation_models_pytorch", "timm", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it now raises
    for name in ("saltseg.models.weights", "saltseg.models.unet", "saltseg.losses", "saltseg.cpu"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.import_module(name)
