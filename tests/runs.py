"""The real commands, called in the process of the tests, on tiny data with a tiny network."""

import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tgs_trees
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from saltseg import train
from saltseg.config import CONF, register
from saltseg.run import Run

torch.set_num_threads(1)

#: A user's own YAMLs, as beside an installed saltseg.
OWN = Path(__file__).parent / "conf"

#: Seconds of work for a command that needs minutes by default.
SMALL_DATA = ("data=synthetic", "data.split.train=24", "data.split.val=8", "data.split.test=8", "data.batch_size=8")
TINY = ("model=tiny", *SMALL_DATA, "trainer=cpu", "trainer.max_epochs=3", "optimizer.lr=0.03")

#: What a clock measures differs between two equal runs.
MEASURED = ["images_per_second", "seconds"]


class StopAt(Callback):
    """Ctrl-C in the middle of an epoch: what a test names as `_target_: runs.StopAt` with `trust=[runs]`."""

    def __init__(self, epoch: int, batch: int = 1) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            raise KeyboardInterrupt


class StopOnce(StopAt):
    """Ctrl-C the first time only: the same command then goes on."""

    def __init__(self, folder: str, epoch: int) -> None:
        super().__init__(epoch)
        self.file = Path(folder, ".stopped")  # hidden, so that the configuration means the same afterwards

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.file.exists() and trainer.current_epoch == self.epoch:
            self.file.touch()
            self.stop()

    def stop(self) -> None:
        raise KeyboardInterrupt


class PreemptOnce(StopOnce):
    """What a job on a cluster is told when its time is up; afterwards it is begun anew."""

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)


class Kill(Callback):
    """The machine goes down at the start of an epoch: `_target_: runs.Kill` with `trust=[runs]`."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            time.sleep(2)  # what was logged is on its way to the disk
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Hydra sets up the log for a whole process or switches it off, and Lightning ignores a second Ctrl-C: undo all."""
    root, interrupt = logging.getLogger(), signal.getsignal(signal.SIGINT)
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:], root.level = handlers, level
        for logger in root.manager.loggerDict.values():
            logger.disabled = False  # type: ignore[union-attr]
        signal.signal(signal.SIGINT, interrupt)


def call(main: Callable[[], Any], *arguments: object, own: Path = OWN) -> None:
    """A command as the shell would call it, in this process."""
    with _as_it_was(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["saltseg", "--config-dir", str(own), *map(str, arguments)])
        main()


def tiny_run(directory: Path, *overrides: object, own: Path = OWN) -> Run:
    """A run of training in ``directory``."""
    call(train.main, *TINY, f"hydra.run.dir={directory}", *overrides, own=own)
    return Run(directory)


def tgs_run(directory: Path) -> tuple[Run, Path]:
    """A run on files like those of TGS, and their folder."""
    root = tgs_trees.write(directory / "tgs", tgs_trees.zips())
    division = ("data.split.train=2", "data.split.val=1", "data.split.test=1", "data.batch_size=2")
    fast = ("model=tiny", "trainer=cpu", "trainer.fast_dev_run=1")
    call(train.main, *fast, "data=tgs", f"data.root={root}", *division, f"hydra.run.dir={directory / 'run'}")
    return Run(directory / "run"), root


#: One finished run for all tests that only look: three epochs, the loss changes before the second.
SHARED = ("loss=bce_lovasz", "loss.phases.1.epoch=1")


def failure(capfd: pytest.CaptureFixture[str], main: Callable[[], Any], *arguments: object, own: Path = OWN) -> str:
    """What a command says that must fail: status 1, and one message for a person."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(main, *arguments, own=own)
    assert stop.value.code == 1
    return message(capfd.readouterr().err)


def message(error: str) -> str:
    """The one message on stderr, which is no traceback."""
    assert "Traceback" not in error
    assert "Error executing job" not in error
    said = re.findall(r"^saltseg: (.*)", error, re.MULTILINE | re.DOTALL)
    assert len(said) == 1, error
    return str(said[0]).strip()


def shell(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, where no question can be answered; imports alone take seconds."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )


@contextmanager
def composed(name: str, *overrides: str) -> Iterator[DictConfig]:
    """The configuration of a command, with Hydra's own part in place for what refers to it."""
    importlib.import_module(f"saltseg.{name}")
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=list(overrides), return_hydra_config=True)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    finally:
        HydraConfig.instance().cfg = before


def weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def assert_equal_weights(first: Path, second: Path) -> None:
    """Bit by bit."""
    left, right = weights(first), weights(second)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def assert_equal_history(first: Run, second: Run) -> None:
    """Bit by bit, as far as it isn't measured by a clock."""
    pd.testing.assert_frame_equal(
        first.history().drop(columns=MEASURED), second.history().drop(columns=MEASURED), check_exact=True
    )


def files(directory: Path) -> Sequence[str]:
    """All files below a directory."""
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
