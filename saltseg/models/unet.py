"""The article's U-Net: the five stages of a ResNet18 and a decoder of transposed convolutions."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from saltseg.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    State,
    Statistics,
    WeightsUnavailableError,
    load_encoder_weights,
    require_hub,
)


class ResNet18Encoder(nn.Module):
    """ResNet18 without its classifier (He et al. 2015, arXiv 1512.03385).

    Gives the maps after each of its five stages: 64, 64, 128, 256, 512 channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the
    input's size. Its parameters keep torchvision's names, so torchvision's files fit.
    """

    channels = (64, 64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        resnet = resnet18()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = self.relu(self.bn1(self.conv1(x)))
        maps = [stem, self.layer1(self.maxpool(stem))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


class UpBlock(nn.Module):
    """Double the size by a transposed convolution, join the encoder's map of that size, convolve twice."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        self.convs = nn.Sequential(*conv_bn_relu(outputs + skip, outputs), *conv_bn_relu(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        joined: Tensor = self.convs(x if skip is None else torch.cat([x, skip], dim=1))
        return joined


def conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3×3 convolution that keeps the size, batch norm, ReLU; no bias, since batch norm removes it."""
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class UNetResNet18(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv 1505.04597) on a ResNet18, as in the article.

    Takes ``B×3×H×W`` floats, normalised with ``mean`` and ``std``, H and W multiples of 32; gives ``B×1×H×W`` logits.

    Args:
        encoder_weights: ``auto``, ``imagenet``, a file or ``None`` (:mod:`saltseg.models.weights`).

    Attributes:
        encoder_init: what the encoder started from, for the record.
        mean, std: statistics of the input that its weights were trained with.
    """

    mean: Statistics = IMAGENET_MEAN
    std: Statistics = IMAGENET_STD

    def __init__(self, encoder_weights: str | None = "auto") -> None:
        super().__init__()
        self.encoder = ResNet18Encoder()
        deep, *skips = reversed(self.encoder.channels)
        widths = (256, 128, 64, 32, 16)
        self.decoder = nn.ModuleList(
            UpBlock(inputs, skip, outputs)
            for inputs, skip, outputs in zip((deep, *widths), (*skips, 0), widths, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], 1, kernel_size=1)
        self.encoder_init = load_encoder_weights(self.encoder, encoder_weights, {"imagenet (hub)": from_torchvision})

    def forward(self, x: Tensor) -> Tensor:
        deep, *skips = reversed(self.encoder(x))
        for block, skip in zip(self.decoder, (*skips, None), strict=True):
            deep = block(deep, skip)
        logits: Tensor = self.head(deep)
        return logits


def from_torchvision() -> State:
    """ImageNet weights of torchvision's ResNet18, from torch's cache or else downloaded into it.

    Raises:
        WeightsUnavailableError: if they are not cached and can't be downloaded.
    """
    url = ResNet18_Weights.IMAGENET1K_V1.url
    if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
        require_hub(url)
    try:
        state: State = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailableError(f"{url} was not downloaded ({error})") from error
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
