"""Images, datasets and nets so small that a test needs no time for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import IGNORE, Array8, Images


def smooth(shape: tuple[int, int], seed: int, sigma: float = 8) -> Array8:
    """A smooth grey image that fills 0 … 255, with structures of about 3·sigma pixels."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="wrap")
    return np.rint(np.interp(noise, (noise.min(), noise.max()), (0, 255))).astype(np.uint8)


def make_images(shapes: Sequence[tuple[int, int]], *, ignore: bool = False, suspect: Sequence[int] = ()) -> Images:
    """Images of these shapes with salt where they are bright; every third has none."""
    images = [smooth(shape, seed, sigma=3) for seed, shape in enumerate(shapes)]
    masks = [(i > 140).astype(np.uint8) * (k % 3 != 2) for k, i in enumerate(images)]
    if ignore:
        for mask in masks:
            mask[:3, :5] = IGNORE
    return Images(
        ids=[f"tile{k:03d}" for k in range(len(images))],
        images=images,
        masks=masks,
        depth=100.0 + np.arange(len(images)),
        group=[f"section{k // 4}" for k in range(len(images))],
        suspect=np.isin(np.arange(len(images)), suspect),
    )


class Small(SaltDataModule):
    """A dataset that is there already; trains on what the two held-out parts leave."""

    def __init__(self, images: Images, val: int = 4, test: int = 3, **options: Any) -> None:
        super().__init__(split={"train": None, "val": val, "test": test}, **options)
        self.given = images

    def read(self) -> Images:
        return self.given


class SmallNet(nn.Module):
    """Two convolutions: B×3×H×W to B×1×H×W logits."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(x).relu())
        return logits


def small_net(seed: int = 0, width: int = 4, times: float = 4) -> SmallNet:
    """With weights of this seed, at work on both sides of 0; ``times`` makes it surer."""
    torch.manual_seed(seed)
    net = SmallNet(width)
    with torch.no_grad():
        net.last.weight *= times
    return net
