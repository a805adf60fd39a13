"""What all tests share."""

import contextlib
import os
import random
import sys
from pathlib import Path

import pytest

# Before any import of them: tests run beside each other, one thread each, and nothing asks the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import torch

TGS = Path(os.environ.get("SALTSEG_TGS", "data/tgs"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The same random numbers whichever tests came before, in the fixtures that are made for a test, too."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def tgs_root() -> Path:
    """The folder that holds TGS; a test that asks for it is skipped where there is none."""
    if not any((TGS / name).exists() for name in ("train.zip", "train")):
        pytest.skip("the TGS data is not here: set SALTSEG_TGS to its folder")
    return TGS.resolve()


# OpenVINO brings absl, whose log handler closes the stream it found when Hydra sets up the log: that of pytest.
with contextlib.suppress(ImportError):
    import absl.logging

    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
