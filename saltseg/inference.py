"""The one way from images to probabilities: fit, normalise, batch, augment at test time, average, crop back."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from saltseg.components import instantiate
from saltseg.data.datamodule import SaltDataModule, batches_by_shape
from saltseg.data.images import Array8
from saltseg.data.prepare import Fit, fit_array, fitted_shape, unfit
from saltseg.errors import SaltsegError
from saltseg.module import SaltNet
from saltseg.run import Run, read_checkpoint

TTA = Literal["none", "hflip"]

#: Views of a batch: how to make each, and how to bring its probabilities back. A section has an up: only left-right.
VIEWS: dict[str, list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]] = {
    "none": [(lambda x: x, lambda p: p)],
    "hflip": [(lambda x: x, lambda p: p), (lambda x: x.flip(-1), lambda p: p.flip(-1))],
}


class Predictor:
    """Probabilities of salt from one network or several.

    Args:
        nets: each B×1×H×W in 0…255 to B×1×H×W logits; their probabilities are averaged.
        fit: how images are brought to a multiple of 32.
        tta: ``hflip`` averages over the image and its mirror image.
        batch_size: images at once; the result doesn't depend on it beyond rounding.
        fabric: where and in which precision; see :func:`fabric`.
        memory_format: ``channels_last`` or ``contiguous``.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        *,
        fit: Fit = "pad",
        tta: TTA = "none",
        batch_size: int = 32,
        fabric: Fabric | None = None,
        memory_format: str = "contiguous",
    ) -> None:
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1)
        layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.nets = [net.to(self.fabric.device).to(memory_format=layout).eval() for net in nets]
        self.fit, self.tta, self.batch_size = fit, tta, batch_size

    def __call__(self, images: Sequence[Array8]) -> list[NDArray[np.float32]]:
        """N images h×w uint8 to N maps h×w of probabilities in [0, 1], in the same order."""
        maps: list[Any] = [None] * len(images)
        for positions, batch in self._batches(images):
            probabilities = self._probabilities(batch)
            for position, one in zip(positions, probabilities, strict=True):
                height, width = images[position].shape
                maps[position] = unfit(one[None], (height, width), self.fit)[0, 0].cpu().numpy()
        return maps

    def _batches(self, images: Sequence[Array8]) -> Iterator[tuple[list[int], Tensor]]:
        for positions in batches_by_shape([i.shape for i in images], self.batch_size):
            shape = fitted_shape(images[positions[0]].shape)
            stack = np.stack([fit_array(images[p], shape, self.fit) for p in positions])
            yield positions, torch.from_numpy(stack[:, None]).to(self.fabric.device)

    @torch.inference_mode()
    def _probabilities(self, batch: Tensor) -> Tensor:
        """B×1×H×W float32: the mean over networks and views."""
        with self.fabric.autocast():
            views = [back(net(forth(batch)).float().sigmoid()) for net in self.nets for forth, back in VIEWS[self.tta]]
        return torch.stack(views).mean(0)


def load_net(run: Run, weights: str, trust: Sequence[str] = ()) -> SaltNet:
    """The network of a run with its ``best`` or ``last`` weights; nothing is asked of a hub.

    Raises:
        SaltsegError: if the checkpoint is missing or is another network's.
    """
    config = run.config()
    if "encoder_weights" in config.model:
        config.model.encoder_weights = None
    net = SaltNet(instantiate(config.model, trust), config.data.normalize)
    file = run.checkpoint(weights)
    if not file.is_file():
        raise SaltsegError(f"{file} is missing, so weights={weights} can't be used.")
    restore(net, file)
    return net


def rebuild_data(run: Run, config: DictConfig) -> SaltDataModule:
    """The data that a run was trained on, divided as it was."""
    run_config = run.config()
    if config.data.root is not None:
        run_config.data.root = config.data.root
    data: SaltDataModule = instantiate(run_config.data, config.trust, augmentation=None, seed=run_config.seed)
    data.divide_as(run.split())
    return data


def restore(net: SaltNet, file: Path) -> None:
    """Put a checkpoint's weights into ``net``.

    Raises:
        SaltsegError: if it is damaged or of another network.
    """
    state = read_checkpoint(file)["state_dict"]
    own = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    expected = net.state_dict()
    wrong = sorted(k for k in expected.keys() ^ own.keys()) or [k for k in own if own[k].shape != expected[k].shape]
    if wrong:
        raise SaltsegError(
            f"{file} is a checkpoint of another model: {len(wrong)} of {len(expected)} weights differ in name or "
            f"shape, the first is {wrong[0]}. Name the model it was trained with."
        )
    net.load_state_dict(own)
