"""``python -m saltseg.export``: a trained network as one ONNX file, image in, probability of salt out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.markup import escape
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor

from saltseg import __version__
from saltseg.backends import TOLERANCE, onnxruntime_of, to_onnx
from saltseg.command import app
from saltseg.data.images import Array8
from saltseg.data.prepare import Fit, fitted_length, margins, unfit
from saltseg.data.synthetic import make_synthetic
from saltseg.errors import SaltsegError, needed
from saltseg.files import write_whole, writing
from saltseg.inference import TTA, VIEWS, Predictor, load_net, one_fit, rebuild_data
from saltseg.report import console
from saltseg.run import Run
from saltseg.scoring import HELD_OUT
from saltseg.sweep import named_runs

#: What an export is checked on beside whole images: pieces of these sizes, in batches of these numbers of images.
PIECES = ((101, 101), (64, 96), (33, 200), (150, 131), (11, 5))
BATCHES = (1, 3, 8)

#: How many held-out images, and how many rows and columns of each at most.
CHECKED, LARGEST = 32, 512


def export(config: DictConfig) -> None:
    """Write ``run`` as ``output``, checked against PyTorch."""
    runs = named_runs(config.run)
    file = Path(config.output or Path(HydraConfig.get().runtime.output_dir) / "model.onnx")
    refuse_existing(file, config.overwrite)
    for package in ("onnx", "onnxruntime"):
        needed(package, "saltseg.export", extra="export")

    first = runs[0].config()
    tta = config.tta.value if config.tta is not None else first.tta
    weights = config.weights.value if config.weights is not None else first.weights
    nets, fit = [load_net(run, weights, config.trust) for run in runs], one_fit(runs)
    model = to_onnx(Whole(nets, fit, tta), torch.zeros(2, 1, 101, 75, dtype=torch.uint8), "probability")
    images, what = held_out(runs[0], config)
    apart = difference(model, Predictor(nets, fit=fit, tta=tta), images)
    if not apart <= TOLERANCE:
        raise SaltsegError(
            f"The exported network doesn't agree with PyTorch on {what}: probabilities are up to {apart:.2g} apart, "
            f"{TOLERANCE:g} is allowed. Nothing is written."
        )
    pieces, counts = ", ".join(f"{h}×{w}" for h, w in PIECES), ", ".join(map(str, BATCHES))
    checked = f"at most {apart:.1e} from PyTorch on {what} and pieces of {pieces}, in batches of {counts}"
    whole = described(model, {**about(runs, weights, tta, fit), "checked": checked, "checked_max_difference": apart})
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, whole)
    console.print(f"model: [bold]{escape(str(file))}[/bold], {len(whole) / 1e6:.1f} MB, {checked}")


class Whole(nn.Module):
    """All that :class:`~saltseg.inference.Predictor` does with images of one size; to be traced, not called.

    Args:
        nets: each B×1×H×W in 0…255 to B×1×H×W logits; their probabilities are averaged.
        fit: how images are brought to a multiple of 32.
        tta: ``hflip`` averages over the image and its mirror image.
    """

    def __init__(self, nets: Sequence[nn.Module], fit: Fit, tta: TTA) -> None:
        super().__init__()
        self.nets, self.fit, self.tta = nn.ModuleList(nets), fit, tta

    def forward(self, image: Tensor) -> Tensor:
        """B×1×h×w uint8, of any size, to B×1×h×w probabilities in [0, 1], float32."""
        bring = mirrored if self.fit == "pad" else stretched
        batch = bring(bring(image.int(), -2), -1)
        if self.fit == "resize":
            batch = (batch + 2**15).div(2**16, rounding_mode="floor")
        batch = batch.float()
        views = [back(net(forth(batch)).sigmoid()) for net in self.nets for forth, back in VIEWS[self.tta]]
        return unfit(torch.stack(views).mean(0), (image.shape[-2], image.shape[-1]), self.fit)


def mirrored(images: Tensor, axis: int) -> Tensor:
    """Rows or columns brought to a multiple of 32 as by ``numpy.pad(…, mode="reflect")``, evenly on both sides."""
    native, fitted = sizes(images, axis)
    before, _ = margins((native, native), (fitted, fitted))  # type: ignore[arg-type]
    period = (2 * native - 2).clamp(min=1)
    position = torch.remainder(torch.arange(fitted) - before, period)  # type: ignore[call-overload]
    return images.index_select(axis, torch.minimum(position, period - position))


def stretched(images: Tensor, axis: int) -> Tensor:
    """Rows or columns stretched to a multiple of 32, times 256, as OpenCV's ``INTER_LINEAR_EXACT`` does in integers.

    The weights are OpenCV's own: doubles, rounded to 256ths (``interpolationLinear`` in its resize.cpp).
    """
    native, fitted = sizes(images, axis)
    # One-dimensional, for the exporter makes floats of the quotient of two numbers that are doubles.
    small, large = native.double()[None], fitted.double()[None]
    centre = (torch.arange(fitted).double() + 0.5) * (1 / (large / small)) - 0.5  # type: ignore[call-overload]
    at = torch.minimum(centre.clamp(min=0), small - 1)
    weight = ((at - at.floor()) * 256).round().int()
    weight = weight[:, None] if axis == -2 else weight
    here = at.floor().long()
    there = torch.minimum(here + 1, native - 1)
    return images.index_select(axis, here) * (256 - weight) + images.index_select(axis, there) * weight


def sizes(images: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """How many rows or columns there are, and the multiple of 32 that holds them, as a trace can follow them."""
    native = shape_as_tensor(images)[axis]
    return native, fitted_length(native)


def held_out(run: Run, config: DictConfig) -> tuple[list[Array8], str]:
    """Images that the run has not learned, and what they are; synthetic ones where its data can't be had."""
    try:
        data = rebuild_data(run, config.trust, config.data.root)
        images, part = next((list(i.images), p) for p in HELD_OUT[::-1] if len(i := data.part(p)))
    except SaltsegError as error:
        console.print(f"The run's data can't be had, so the check is on synthetic images. {escape(str(error))}")
        images, part, name = list(make_synthetic(CHECKED, seed=0).images), "synthetic", "images"
    else:
        name = f"images of {run.metrics()['dataset']}"
    picked = [image[:LARGEST, :LARGEST] for image in images[:CHECKED]]
    return picked, f"{len(picked)} {part} {name}"


def difference(model: bytes, predictor: Predictor, images: Sequence[Array8]) -> float:
    """The largest difference in probability of an exported model, in ONNX Runtime, from ``predictor``."""
    run, largest = onnxruntime_of(model), 0.0
    for batch in batches(images):
        given = run(batch[:, None])[:, 0]
        expected = np.stack(predictor(list(batch)))
        if given.shape != expected.shape:
            return float("inf")
        largest = max(largest, float(np.abs(given - expected).max(initial=0)))
    return largest


def batches(images: Sequence[Array8]) -> Iterator[NDArray[np.uint8]]:
    """B×h×w: the images as they are, one by one, then pieces of them in all sizes and numbers that are checked."""
    yield from (image[None] for image in images)
    for height, width in PIECES:
        for count in BATCHES:
            yield np.stack([piece(images[k % len(images)], height, width) for k in range(count)])


def piece(image: Array8, height: int, width: int) -> Array8:
    """The upper left of an image, continued by its mirror image where it is smaller."""
    beyond = [(0, max(wanted - had, 0)) for wanted, had in zip((height, width), image.shape, strict=True)]
    return np.pad(image, beyond, mode="symmetric")[:height, :width]


def about(runs: Sequence[Run], weights: str, tta: str, fit: str) -> dict[str, Any]:
    """What a user of the file wants to know; keys with a slash are the run's scores."""
    configs, metrics = [run.config() for run in runs], runs[0].metrics()
    facts = {
        "run": ", ".join("/".join(run.path.resolve().parts[-2:]) for run in runs),
        "model": ", ".join(c.choices.model for c in configs),
        "classes": ["background", "salt"],
        "threshold": float(configs[0].threshold),
        "dataset": metrics["dataset"],
        "weights": weights,
        "tta": tta,
        "normalize": ", ".join(dict.fromkeys(c.data.normalize for c in configs)),
        "fit": fit,
        "input": "image: N×1×H×W uint8, grey 0…255, any size; each image stretched to its own minimum and maximum, "
        "where the training data was",
        "output": "probability: N×1×H×W float32, of salt, in [0, 1]; salt is above threshold",
        "saltseg_version": __version__,
        "licence": metadata.metadata("saltseg")["License-Expression"],
    }
    if len(runs) > 1:
        return {**facts, "scores": "none: an ensemble is scored by saltseg.evaluate"}
    if (weights, tta) != (metrics["weights"], metrics["tta"]):
        facts["scores"] = f"measured with weights={metrics['weights']} and tta={metrics['tta']}"
    known: dict[str, Any] = {
        key: metrics[key] for key in ("threshold_best", "temperature", "image_height", "image_width") if key in metrics
    }
    return {**facts, **known, **{key: value for key, value in metrics.items() if "/" in key and value is not None}}


def described(model: bytes, facts: Mapping[str, Any]) -> bytes:
    """The model with ``facts`` in its metadata: text as it is, other values as JSON."""
    import onnx

    proto = onnx.load_from_string(model)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1  # which the exporter can't tell after a resize
    proto.producer_name, proto.producer_version = "saltseg", __version__
    proto.doc_string = f"Probability of salt in seismic images. {facts['input']}. {facts['output']}."
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    onnx.helper.set_model_props(proto, texts)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def refuse_existing(file: Path, overwrite: bool) -> None:
    """Keep what is there.

    Raises:
        SaltsegError: if ``file`` exists and may not be replaced, or is a directory.
    """
    if file.is_dir():
        raise SaltsegError(f"output: {file} is a directory. Name a file, as {file / 'model.onnx'}.")
    if file.exists() and not overwrite:
        raise SaltsegError(f"output: {file} exists and is kept. Name another file, or add overwrite=true.")


main = app("export")(export)

if __name__ == "__main__":
    main()
