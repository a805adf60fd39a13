"""Overrides of ``train`` as Python handles them: written for a command line, and gathered into an experiment's YAML."""

import json
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

from saltseg.components import check
from saltseg.errors import SaltsegError


def written(key: str, value: Any) -> str:
    """``key=value``, quoted as Hydra's grammar wants it."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def composed(overrides: Sequence[str]) -> DictConfig:
    """What ``train`` would make of them; inside a command, which has set up Hydra.

    Raises:
        SaltsegError: if a component takes no such argument. Hydra and OmegaConf raise their own errors.
    """
    config: DictConfig = compose("train", overrides=list(overrides))
    check(config, config.trust)
    return config


def experiment(overrides: Sequence[str], about: str) -> str:
    """A YAML of the group ``experiment`` that says the same as ``overrides``.

    Args:
        overrides: of ``train``.
        about: a line of comment.

    Raises:
        SaltsegError: if one of them takes something away, which a YAML can't say.
    """
    config = composed(overrides)
    inherited: list[Any] = []
    groups: list[Any] = []
    values = OmegaConf.create()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if override.is_delete() or override.package is not None:
            raise SaltsegError(f"{override.input_line}: an experiment's YAML can't say this. Set {key} to a value.")
        if key == "experiment":
            inherited += value if isinstance(value, list) else [value]
        elif GlobalHydra.instance().config_loader().get_group_options(key):
            groups.append({f"override /{key}": value})
        else:
            OmegaConf.update(values, *_whole_list(config, key, value), force_add=True)
    content = {"defaults": [*(name for name in inherited if name is not None), *groups], **values}
    return f"# @package _global_\n# {about}\n{OmegaConf.to_yaml(OmegaConf.create(content))}"


def _whole_list(config: DictConfig, key: str, value: Any) -> tuple[str, Any]:
    """A YAML can't replace an element of a list: the list that ``key`` is in, with all its elements."""
    parts = key.split(".")
    for k in range(1, len(parts)):
        above = ".".join(parts[:k])
        node = OmegaConf.select(config, above)
        if isinstance(node, ListConfig):
            return above, OmegaConf.to_container(node)
    return key, value
