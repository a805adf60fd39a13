"""Components named by a configuration: only trusted classes, only arguments that they take."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from saltseg.errors import SaltsegError, near_miss

#: Whose classes a configuration may name. A run directory can come from a stranger; its config must not run their code.
TRUSTED = (
    "saltseg",
    "torch.nn",
    "torch.optim",
    "lightning",
    "segmentation_models_pytorch",
    "albumentations",
    "torchmetrics",
)


def locate(target: str, trust: Sequence[str] = ()) -> Any:
    """The class or function that a ``_target_`` names.

    Raises:
        SaltsegError: if it does not exist, or is not of a package that may be named.
    """
    allowed = (*TRUSTED, *trust)
    if not any(target == p or target.startswith(f"{p}.") for p in allowed):
        raise SaltsegError(
            f"_target_: {target} is of none of the packages that a configuration may name ({', '.join(allowed)}). "
            f"If you trust its authors, add trust=[{target.split('.')[0]}]."
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise SaltsegError(f"_target_: {target}: there is no module {error.name}.") from error
    except AttributeError as error:
        names = [n for n in dir(importlib.import_module(module)) if not n.startswith("_")]
        raise SaltsegError(f"_target_: {module} has no {name}.{near_miss(name, names)}") from error
    home = getattr(found, "__module__", None) or module
    # Of functions only those that make networks: others of ours link files or look up what is not to be named.
    own = home.startswith("saltseg.models.")
    if not any(home == p or home.startswith(f"{p}.") for p in (*allowed, "torch")) or not (
        inspect.isclass(found) or own or any(home.startswith(p) for p in trust)
    ):
        raise SaltsegError(f"_target_: {target} is not a class of {module}; a configuration may name nothing else.")
    return found


def parameters(target: Any) -> set[str]:
    """The names of the arguments that ``target`` takes, through the base classes that its ``**kwargs`` go to."""
    makers = (
        [vars(c)["__init__"] for c in target.__mro__ if "__init__" in vars(c)] if inspect.isclass(target) else [target]
    )
    names: set[str] = set()
    for maker in makers:
        try:
            found = inspect.signature(maker).parameters.values()
        except ValueError:
            break
        names |= {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            break
    return names


def instantiate(node: Any, trust: Sequence[str] = (), **extra: Any) -> Any:
    """Build what a node describes, as ``hydra.utils.instantiate`` does, from trusted classes and checked names.

    Raises:
        SaltsegError: if a ``_target_`` may not be named, an argument's name is not in its signature (many libraries
            swallow misspelt ones), or an argument's value is refused.
    """
    where = str(node._get_full_key(None)) if isinstance(node, DictConfig) else ""
    check(node, trust, where)
    try:
        return hydra.utils.instantiate(node, **extra, _convert_="all")
    except HydraException as error:
        cause = error.__cause__
        if isinstance(cause, SaltsegError):
            raise cause from None
        if isinstance(cause, TypeError | ValueError):
            raise SaltsegError(f"{where or _target(node)}: {cause}") from error
        raise


def _target(node: Any) -> str:
    return str(node.get("_target_", "")) if isinstance(node, Mapping | DictConfig) else ""


def check(node: Any, trust: Sequence[str] = (), where: str = "") -> None:
    """Whether every ``_target_`` in ``node``, at any depth, may be named and takes the arguments that it is given.

    Raises:
        SaltsegError: if not; names the place.
    """
    if isinstance(node, list | ListConfig):
        for k, item in enumerate(node):
            check(item, trust, f"{where}[{k}]")
    if not isinstance(node, Mapping | DictConfig):
        return
    target = node.get("_target_")
    if target is not None:
        found = locate(str(target), trust)
        options = any(
            p.kind is p.VAR_KEYWORD for p in inspect.signature(found).parameters.values()
        ) and not inspect.isclass(found)
        known = parameters(found)
        for name in node:
            if not str(name).startswith("_") and str(name) not in known and not options:
                raise SaltsegError(
                    f"{where}{': ' * bool(where)}{target} takes no '{name}'.{near_miss(str(name), known)}"
                )
    for name, value in node.items():
        check(value, trust, f"{where}.{name}" if where else str(name))


def listed(node: Any, trust: Sequence[str] = (), **extra: Any) -> list[Any]:
    """A named dict of nodes as a list of what they describe, in their order; those set to null left out."""
    return [instantiate(item, trust, **extra) for item in (node or {}).values() if item is not None]
