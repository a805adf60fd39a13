"""saltseg against what one would use instead of it, in one run, as ratios.

    SALTSEG_TGS=... python tests/benchmarks/compare.py RUN [--rounds 3]

RUN is a finished run on TGS, whose network is used for prediction. Each round measures everything once, one after the
other; a figure is the median of the rounds. Runs for about five minutes a round on two cores; nothing else should.
fastai is measured where it is installed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from saltseg.data.archive import Archive  # noqa: F401
from saltseg.inference import assemble, rebuild_data
from saltseg.metrics import CURVE, Counts, histograms
from saltseg.run import Run

HERE = Path(__file__).parent
TGS = Path(os.environ.get("SALTSEG_TGS", "data/tgs")).resolve()
RESNET34 = ["experiment=article_resnet34", "model.encoder_weights=null"]
#: A start's least: what must be imported, and the 8000 files decoded.
LEAST = f"""
import zipfile, numpy, cv2, torch, lightning, segmentation_models_pytorch, albumentations, hydra
with zipfile.ZipFile({str(TGS / "train.zip")!r}) as file:
    for name in file.namelist():
        if name.endswith(".png"):
            cv2.imdecode(numpy.frombuffer(file.read(name), numpy.uint8), cv2.IMREAD_UNCHANGED)
"""
