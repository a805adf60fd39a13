"""The run directory: what a run leaves, read and written in one place."""

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from saltseg.errors import SaltsegError
from saltseg.files import write_whole

HISTORY_COLUMNS = (
    "epoch",
    "loss_name",
    "lr",
    "train/loss",
    "val/loss",
    "val/iou",
    "val/dice",
    "val/map",
    "images_per_second",
    "seconds",
)

#: What ``metrics.json`` says about the training.
ABOUT_TRAINING = ("encoder_init", "trained_by", "train_seconds", "images_per_second")

#: Whose versions change a result.
PACKAGES = ("saltseg", "torch", "lightning", "segmentation-models-pytorch", "timm", "albumentations", "numpy")


@dataclass(frozen=True)
class Run:
    """A run's directory.

    Attributes:
        path: of the directory.
    """

    path: Path

    @classmethod
    def begin(cls, path: Path, again: bool = False) -> "Run":
        """A new run in ``path``.

        Args:
            path: of the directory.
            again: a run that did not finish there is begun anew; what a resume needs of it stays.

        Raises:
            SaltsegError: if there is one already.
        """
        run = cls(path)
        if run.config_file.exists() and not again:
            raise SaltsegError(f"{path} already holds a run.")
        if again:
            run.metrics_file.unlink(missing_ok=True)
            if not run.last_checkpoint.exists():
                run.history_file.unlink(missing_ok=True)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        run.figures.mkdir(exist_ok=True)
        return run

    @classmethod
    def finished(cls, path: str | Path, key: str = "run") -> "Run":
        """A run that was made before.

        Args:
            path: of its directory.
            key: where ``path`` was given, for a person to find it.

        Raises:
            SaltsegError: if ``path`` holds none, or one that did not finish.
        """
        run = cls(Path(path))
        if not run.config_file.is_file():
            raise SaltsegError(
                f"{key}: {path} is not a run: it has no config.yaml. Name a directory that training made."
            )
        if not run.metrics_file.is_file() or run.metrics().get("status") != "finished":
            raise SaltsegError(
                f"{key}: {path} did not finish. Resume it with "
                f"`python -m saltseg.train … ckpt_path={run.last_checkpoint}`, then name the new run."
            )
        return run

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Record in ``metrics.json`` how the work inside ended, when it didn't finish."""
        try:
            yield
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
            reason = str(error) if isinstance(error, SaltsegError) else f"{type(error).__name__}: {error}"
            self.write_metrics({"status": status, "error": reason})
            raise

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def history_file(self) -> Path:
        return self.path / "history.csv"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.json"

    @property
    def log_file(self) -> Path:
        return self.path / "output.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def checkpoint(self, weights: str) -> Path:
        """``best`` or ``last``."""
        return self.checkpoints / f"{weights}.ckpt"

    @property
    def scored_checkpoint(self) -> Path:
        """The weights that the run was scored with."""
        return self.checkpoint(str(self.config().weights))

    def config(self) -> DictConfig:
        """The resolved configuration that the run was made with."""
        loaded = OmegaConf.load(self.config_file)
        if not isinstance(loaded, DictConfig):
            raise SaltsegError(f"{self.config_file} is not a configuration.")
        return loaded

    def history(self) -> pd.DataFrame:
        """A row per epoch."""
        return pd.read_csv(self.history_file)

    def split(self) -> pd.DataFrame:
        """Which image was in which part; "" is no part."""
        return pd.read_csv(self.path / "split.csv", dtype={"id": str}, keep_default_na=False)

    def metrics(self) -> dict[str, Any]:
        """The flat scores.

        Raises:
            SaltsegError: if the file is damaged.
        """
        try:
            loaded = json.loads(self.metrics_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SaltsegError(f"{self.metrics_file} is damaged: it is not JSON ({error}).") from error
        if not isinstance(loaded, dict):
            raise SaltsegError(f"{self.metrics_file} is damaged: expected names and values.")
        return loaded

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``: plain values, nothing left to resolve."""
        write_whole(self.config_file, OmegaConf.to_yaml(OmegaConf.create(dict(config))))

    def write_environment(self, command: str) -> None:
        """Write ``environment.json``: versions, device, commit, and the command line that makes the run again."""
        import torch

        from saltseg.hardware import cores

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
        self.write_json(
            self.path / "environment.json",
            {
                "command": command,
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "git_commit": _commit(),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "device": device,
                "cores": cores(),
                "threads": torch.get_num_threads(),
                "packages": {p: metadata.version(p) for p in PACKAGES},
            },
        )

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        self.write_json(self.metrics_file, metrics)

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write JSON whole; what is not a number becomes null, which every reader takes."""
        write_whole(file, json.dumps({k: _plain(v) for k, v in content.items()}, indent=2) + "\n")

    def write_table(self, file: Path, table: pd.DataFrame) -> None:
        """Write a CSV whole; floats by the shortest text that reads back as themselves."""
        write_whole(file, table.to_csv(index=False))

    def write_arrays(self, file: Path, **arrays: np.ndarray[Any, Any]) -> None:
        """Write an NPZ whole."""
        packed = BytesIO()
        np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
        write_whole(file, packed.getvalue())

    def adopt(self, checkpoint: Path) -> None:
        """Carry over from the run of ``checkpoint`` what a resume needs: its history up to there and its best weights.

        Raises:
            SaltsegError: if ``checkpoint`` is damaged or not in a run's ``checkpoints`` folder.
        """
        before = Run(checkpoint.resolve().parent.parent)
        if not checkpoint.is_file():
            raise SaltsegError(f"ckpt_path: {checkpoint} does not exist. Expected checkpoints/last.ckpt of a run.")
        if not before.history_file.is_file():
            raise SaltsegError(f"ckpt_path: {before.path} holds no history.csv, so {checkpoint} can't be resumed.")
        done = read_checkpoint(checkpoint)["epoch"]
        history = before.history()
        self.write_table(self.history_file, history[history["epoch"] <= done])
        # The checkpoint as well: a training that was done already leaves no other.
        for source, own in ((before.best_checkpoint, self.best_checkpoint), (checkpoint, self.last_checkpoint)):
            if source.is_file() and source.resolve() != own.resolve():
                partial = own.with_suffix(".partial")
                shutil.copyfile(source, partial)
                partial.replace(own)

    def share(self, trained: "Run") -> dict[str, Any]:
        """Take the training of another run: its checkpoints as links, its history, and what is said about it."""
        for name in ("best", "last"):
            link = self.checkpoint(name)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(trained.checkpoint(name), link.parent))
        self.write_table(self.history_file, trained.history())
        about = trained.metrics()
        return {key: about[key] for key in ABOUT_TRAINING}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """``epoch``, ``state_dict`` and what else Lightning keeps: tensors and plain values, none of which is code.

    Raises:
        SaltsegError: if it is damaged or something else.
    """
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        epoch, state = content["epoch"], content["state_dict"]
        sound = isinstance(epoch, int) and all(isinstance(v, torch.Tensor) for v in state.values())
    except Exception as error:  # damaged bytes unpickle into any error there is
        raise SaltsegError(f"{file} can't be read as a checkpoint of a run: {type(error).__name__}.") from error
    if not sound:
        raise SaltsegError(f"{file} can't be read as a checkpoint of a run: it holds something else.")
    return dict(content)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _commit() -> str | None:
    """The commit of this code, or None outside a checkout."""
    top = Path(__file__).parent.parent
    if not (top / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(top), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
