"""The one way from images to probabilities: fit, normalise, batch, augment at test time, average, tile, crop back."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.special import entr

from saltseg.backends import Backend, on_backend
from saltseg.components import instantiate
from saltseg.data.datamodule import SaltDataModule, batches_by_shape
from saltseg.data.images import Array8
from saltseg.data.prepare import Fit, fit_array, fitted_shape, margins, unfit
from saltseg.errors import SaltsegError
from saltseg.hardware import detect
from saltseg.module import SaltNet
from saltseg.run import Run, read_checkpoint
from saltseg.uncertainty import MEMBERS

TTA = Literal["none", "hflip"]
Mean = Literal["probability", "logit"]

#: Views of a batch: how to make each, and how to bring its probabilities back. A section has an up: only left-right.
VIEWS: dict[str, list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]] = {
    "none": [(lambda x: x, lambda p: p)],
    "hflip": [(lambda x: x, lambda p: p), (lambda x: x.flip(-1), lambda p: p.flip(-1))],
}


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one image.

    Attributes:
        probability: h×w float32 in [0, 1].
        member_entropy: h×w float32, the mean over the networks of each one's own entropy in bits; None for fewer than
            :data:`MEMBERS`.
    """

    probability: NDArray[np.float32]
    member_entropy: NDArray[np.float32] | None


class Predictor:
    """Probabilities of salt from one network or several, for images of any size.

    An image that is larger than those of the training is cut into overlapping tiles of that size, whose predictions are
    blended with a Hann window, which is 0 at their borders. It is mirrored beyond its edges as far as a training image
    is, so that one of the training's size is a single tile and gives what it gives by itself.

    Args:
        nets: each B×1×H×W in 0…255 to B×1×H×W logits.
        fit: how images are brought to a multiple of 32.
        tta: ``hflip`` averages over the image and its mirror image.
        batch_size: images or tiles at once; the result doesn't depend on it beyond rounding.
        fabric: where and in which precision.
        memory_format: ``channels_last`` or ``contiguous``.
        image_size: height and width of the training images; None: no image is cut into tiles.
        mean: what is averaged over the networks.
        overlap: of neighbouring tiles, as a share of their size, in [0, 1).
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
        image_size: tuple[int, int] | None = None,
        mean: Mean = "probability",
        overlap: float = 0.5,
    ) -> None:
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1)
        layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.nets = [net.to(self.fabric.device).to(memory_format=layout).eval() for net in nets]
        self.fit, self.tta, self.batch_size, self.mean = fit, tta, batch_size, mean
        self.image_size, self.overlap = image_size, overlap
        self.tile = None if image_size is None else fitted_shape(image_size)

    def __call__(self, images: Sequence[Array8]) -> list[NDArray[np.float32]]:
        """N images h×w uint8 to N maps h×w of probabilities in [0, 1], in the same order."""
        return [prediction.probability for prediction in self.predict(images)]

    def predict(self, images: Sequence[Array8]) -> list[Prediction]:
        """N images h×w uint8 to N predictions, in the same order."""
        found: list[Any] = [None] * len(images)
        large = [k for k, image in enumerate(images) if self._is_large(image)]
        for position in large:
            found[position] = _prediction(self._tiled(images[position]))
        for positions, batch in self._batches(images, set(large)):
            outputs = self._forward(batch)
            for position, output in zip(positions, outputs, strict=True):
                height, width = images[position].shape
                found[position] = _prediction(unfit(output[None], (height, width), self.fit)[0])
        return found

    def _is_large(self, image: Array8) -> bool:
        return self.tile is not None and any(n > t for n, t in zip(fitted_shape(image.shape), self.tile, strict=True))

    def _batches(self, images: Sequence[Array8], without: set[int]) -> Iterator[tuple[list[int], Tensor]]:
        rest = [k for k in range(len(images)) if k not in without]
        for chosen in batches_by_shape([images[k].shape for k in rest], self.batch_size):
            positions = [rest[c] for c in chosen]
            shape = fitted_shape(images[positions[0]].shape)
            stack = np.stack([fit_array(images[p], shape, self.fit) for p in positions])
            yield positions, torch.from_numpy(stack[:, None]).to(self.fabric.device)

    @torch.inference_mode()
    def _tiled(self, image: Array8) -> Tensor:
        """h×w to C×h×w, see :meth:`_forward`, from overlapping tiles."""
        from monai.inferers.utils import sliding_window_inference  # takes seconds, and few images need it

        assert self.image_size is not None
        assert self.tile is not None
        native = image.shape[0], image.shape[1]
        if self.fit == "resize":  # by as much as a training image
            height, width = (round(n * t / s) for n, t, s in zip(native, self.tile, self.image_size, strict=True))
            prepared = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            inner = (0, 0, height, width)
        else:
            before = margins(self.image_size, self.tile)
            after = [t - s - b for t, s, b in zip(self.tile, self.image_size, before, strict=True)]
            prepared = np.pad(image, [*zip(before, after, strict=True)], mode="reflect")
            inner = (*before, *native)
        outputs = sliding_window_inference(
            torch.from_numpy(prepared)[None, None].float(),
            self.tile,
            self.batch_size,
            self._forward,
            overlap=self.overlap,
            padding_mode="reflect",
            roi_weight_map=_hann(self.tile),
            sw_device=self.fabric.device,
            device="cpu",
        )
        assert isinstance(outputs, Tensor)
        top, left, height, width = inner
        cropped = outputs[..., top : top + height, left : left + width]
        return unfit(cropped, native, self.fit)[0]

    @torch.inference_mode()
    def _forward(self, batch: Tensor) -> Tensor:
        """B×1×H×W to B×C×H×W float32: the probability and, from :data:`MEMBERS` networks on, their mean entropy."""
        with self.fabric.autocast():
            members = torch.stack([self._member(net, batch) for net in self.nets])
        mean = members.mean(0) if self.mean == "probability" else members.logit(eps=1e-7).mean(0).sigmoid()
        if len(self.nets) < MEMBERS:
            return mean
        entropy = (entr(members) + entr(1 - members)).mean(0) / math.log(2)
        return torch.cat([mean, entropy], dim=1)

    def _member(self, net: nn.Module, batch: Tensor) -> Tensor:
        return torch.stack([back(net(forth(batch)).float().sigmoid()) for forth, back in VIEWS[self.tta]]).mean(0)


def _hann(tile: tuple[int, int]) -> Tensor:
    """H×W weights of a tile's pixels; those of tiles that overlap by half add up to a constant."""
    rows, columns = (torch.sin(math.pi * (torch.arange(n) + 0.5) / n) ** 2 for n in tile)
    return torch.outer(rows, columns)


def _prediction(output: Tensor) -> Prediction:
    maps = output.cpu().numpy()
    return Prediction(maps[0], maps[1] if len(maps) > 1 else None)


def assemble(
    runs: Sequence[Run],
    *,
    weights: str,
    tta: TTA,
    image_size: tuple[int, int],
    batch_size: int,
    trust: Sequence[str] = (),
    backend: Backend = "torch",
    **options: Any,
) -> Predictor:
    """The networks of finished runs, as this machine computes them best; ``options`` go to :class:`Predictor`.

    Raises:
        SaltsegError: if a checkpoint is missing, the runs bring images to a multiple of 32 in different ways, or the
            backend can't be had.
    """
    hardware = detect()
    return Predictor(
        [on_backend(load_net(run, weights, trust), backend) for run in runs],
        fit=one_fit(runs),
        tta=tta,
        batch_size=batch_size,
        fabric=Fabric(accelerator=hardware.accelerator, devices=1, precision=hardware.precision),  # type: ignore[arg-type]
        memory_format=hardware.memory_format,
        image_size=image_size,
        **options,
    )


def one_fit(runs: Sequence[Run]) -> Fit:
    """How all of the runs bring an image to a multiple of 32.

    Raises:
        SaltsegError: if they differ.
    """
    fits: dict[Fit, Path] = {run.config().data.fit: run.path for run in runs}
    if len(fits) > 1:
        listed = ", ".join(f"data.fit={fit} in {path}" for fit, path in fits.items())
        raise SaltsegError(f"run: these can't be averaged, for they don't prepare images alike: {listed}.")
    return next(iter(fits))


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


def rebuild_data(run: Run, trust: Sequence[str] = (), root: str | None = None) -> SaltDataModule:
    """The data that a run was trained on, divided as it was; from ``root`` where it has moved.

    ``trust`` is the user's own, never that in the run, which may be a stranger's.
    """
    config = run.config()
    if root is not None:
        config.data.root = root
    data: SaltDataModule = instantiate(config.data, trust, augmentation=None, seed=config.seed)
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
