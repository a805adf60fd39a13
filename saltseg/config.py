"""How an experiment is composed: the schemas and the resolvers."""

import os
import re
import sys
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf

from saltseg.errors import SaltsegError

# Before the first import of albumentations: it would ask a package index for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# The plugin of a launcher has a schema by the name of our YAML; Hydra warns that one day it won't merge the two.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.*is validated against ConfigStore schema")

PACKAGE = Path(__file__).parent
# Where Hydra finds our sweeper: it takes plugins from the namespace hydra_plugins alone.
sys.path.append(str(PACKAGE / "plugins"))
#: ``conf/`` stands at the top of a checkout and travels inside the wheel as ``saltseg/conf``.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


class Weights(Enum):
    """Which checkpoint of a run."""

    best = "best"
    last = "last"


class Tta(Enum):
    """Test-time augmentation."""

    none = "none"
    hflip = "hflip"


class MemoryFormat(Enum):
    """Layout of images and weights in memory."""

    auto = "auto"
    channels_last = "channels_last"
    contiguous = "contiguous"


@dataclass
class TrainConfig:
    """The root of ``train``; the groups below it are checked against the signatures of what they name."""

    data: Any = MISSING
    model: Any = MISSING
    loss: Any = MISSING
    augmentation: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    seed: int = 0
    threshold: float = 0.5
    weights: Weights = Weights.best
    tta: Tta = Tta.none
    memory_format: MemoryFormat = MemoryFormat.auto
    compile: bool = False
    threads: int | None = None
    ckpt_path: str | None = None
    init: str | None = None
    monitor: str = "val/iou"
    trust: list[str] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)


@dataclass
class SearchConfig(TrainConfig):
    """The root of ``search``: the keys of ``train``, which its trials share, and its own."""

    space: dict[str, Any] = field(default_factory=dict)
    trials: int = 20


@dataclass
class BenchmarkConfig(TrainConfig):
    """The root of ``benchmark``: the keys of ``train``, and the settings to try or the run to predict with."""

    axes: Any = None
    run: str | None = None


@dataclass
class EvaluateConfig:
    """The root of ``evaluate``."""

    run: Any = MISSING
    split: Any = None
    threshold: Any = None
    tta: Tta | None = None
    weights: Weights | None = None
    data: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)


@dataclass
class PredictConfig:
    """The root of ``predict``."""

    run: Any = MISSING
    input: str = MISSING
    output: str = MISSING
    format: Any = None
    backend: str = "torch"
    overwrite: bool = False
    threshold: Any = None
    tta: Tta | None = None
    weights: Weights | None = None
    mean: str = "probability"
    overlap: float = 0.5
    batch_size: int | None = None
    temperature: float | None = None
    calibrate: bool = False
    segy: Any = MISSING
    trust: list[str] = field(default_factory=list)


@dataclass
class ExportConfig:
    """The root of ``export``."""

    run: Any = MISSING
    output: str | None = None
    overwrite: bool = False
    tta: Tta | None = None
    weights: Weights | None = None
    data: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)


@dataclass
class CompareConfig:
    """The root of ``compare``."""

    runs: Any = MISSING
    baseline: str | None = None
    metric: str = "iou"
    split: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)


@dataclass
class DashboardConfig:
    """The root of ``dashboard``."""

    project: str = "saltseg"
    entity: str | None = None


@dataclass
class DatasetConfig:
    """The root of ``dataset``."""

    action: str = "verify"
    data: Any = MISSING
    seed: int = 0
    trust: list[str] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)


def default_data() -> str:
    """``tgs`` where the TGS data is found, else the embedded ``synthetic`` set."""
    from saltseg.data.tgs import find_tgs

    return "tgs" if find_tgs(Path(os.environ.get("SALTSEG_TGS", "data/tgs"))) else "synthetic"


@cache
def claim(parent: str) -> str:
    """A directory of this process alone under ``parent``, named by date and time."""
    now = datetime.now()
    day = Path(parent) / f"{now:%Y-%m-%d}"
    day.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        directory = day / f"{now:%H-%M-%S}{suffix}"
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return str(directory)
    raise SaltsegError(f"No free directory under {day}.")


def unused(directory: str) -> str:
    """Where Hydra keeps its files below ``directory``; asked before it writes them.

    Raises:
        SaltsegError: if there is a run already. (A sweep that is continued asks job by job.)
    """
    if HydraConfig.get().mode is RunMode.RUN and (Path(directory) / "config.yaml").exists():
        raise SaltsegError(
            f"hydra.run.dir: {directory} already holds a run. Choose another directory, or leave hydra.run.dir out to "
            "have one made under outputs/."
        )
    return ".hydra"


def slug(overrides: str) -> str:
    """What makes a job of a sweep different, usable as a file name unquoted."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", overrides).strip("-.")[:100] or "job"


def sweep() -> str | None:
    """The date and time of the sweep that a job belongs to; None for a single run."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:
        return None
    # Not hydra.sweep.dir: a launcher's worker process would claim one of its own.
    return "/".join(Path(hydra_config.runtime.output_dir).parts[-3:-1])


def hardware(setting: str) -> str | int:
    """A setting that suits this machine, see :mod:`saltseg.hardware`."""
    from saltseg.hardware import detect

    value: str | int = getattr(detect(), setting)
    return value


def threads_to_try() -> str:
    """All cores, then half of them, then a quarter."""
    from saltseg.hardware import cores

    return ",".join(str(n) for k in range(3) if (n := cores() >> k))


def register() -> None:
    """Make the resolvers and schemas known."""
    OmegaConf.register_new_resolver("default_data", default_data, replace=True)
    OmegaConf.register_new_resolver("claim", claim, replace=True)
    OmegaConf.register_new_resolver("unused", unused, replace=True)
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    OmegaConf.register_new_resolver("sweep", sweep, replace=True)
    OmegaConf.register_new_resolver("hardware", hardware, replace=True)
    OmegaConf.register_new_resolver("threads_to_try", threads_to_try, replace=True)
    store = ConfigStore.instance()
    schemas = {
        "train": TrainConfig,
        "search": SearchConfig,
        "benchmark": BenchmarkConfig,
        "evaluate": EvaluateConfig,
        "predict": PredictConfig,
        "export": ExportConfig,
        "compare": CompareConfig,
        "dataset": DatasetConfig,
        "dashboard": DashboardConfig,
    }
    for name, schema in schemas.items():
        store.store(name=f"{name}_schema", node=schema)


def resolved(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain containers and values."""
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def choices() -> dict[str, str]:
    """The chosen YAML of each group, as the command line would name it."""
    chosen = HydraConfig.get().runtime.choices
    return {k: v for k, v in chosen.items() if not k.startswith("hydra/") and v is not None}


register()  # at the import, for worker processes compose before they call
