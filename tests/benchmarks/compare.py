"""saltseg against what one would use instead of it, in one run, as ratios.

    SALTSEG_TGS=... python tests/benchmarks/compare.py RUN [--rounds 3] [--steps 30]

RUN is a finished run on TGS, whose network is used for prediction. Each round measures everything once, one after the
other, in processes of their own; a figure is the median of the rounds. Nothing else should run meanwhile. fastai is
measured where it is installed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from saltseg.benchmark import backend_table, measure_backends
from saltseg.data.datamodule import SaltDataModule
from saltseg.inference import Predictor, assemble, rebuild_data
from saltseg.metrics import Counts
from saltseg.run import Run
from saltseg.scoring import count

HERE = Path(__file__).parent
TGS = Path(os.environ.get("SALTSEG_TGS", "data/tgs")).resolve()
RESNET34 = ("experiment=article_resnet34", "model.encoder_weights=null")
SHORT = ("trainer.max_epochs=2", "trainer.limit_val_batches=2", "callbacks.progress=null")
#: In the order of the table.
TRAINERS = ("plain", "tuned", "Lightning + SMP", "fastai", "saltseg, speed-ups off", "saltseg", "saltseg, compile=true")
#: saltseg's own loop around layers, memory and optimizer as torch has them.
AS_TORCH_DOES = """
from saltseg import train
train.suit_cpu = train.keep_memory = lambda *_, **__: None
from saltseg.benchmark import main
main()
"""
#: The least that a start takes: the imports, and decoding what is trained on.
LEAST = f"""
import time, zipfile, numpy, cv2, torch, lightning, segmentation_models_pytorch, albumentations, hydra
with zipfile.ZipFile({str(TGS / "train.zip")!r}) as file:
    for name in file.namelist():
        if name.endswith(".png"):
            cv2.imdecode(numpy.frombuffer(file.read(name), numpy.uint8), cv2.IMREAD_UNCHANGED)
print(time.time())
"""
#: How often the start is timed in a round: it is short, and the first after something else is slower.
STARTS = 5


def python(*arguments: str) -> str:
    """Standard output of a process; it may end by Ctrl-C's status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1", "SALTSEG_TGS": str(TGS)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 130):
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def until(*arguments: str) -> float:
    """Seconds from a process's start to the time that it prints last."""
    start = time.time()
    return float(python(*arguments).split()[-1]) - start


def peer(script: str, *arguments: str) -> float:
    """Images per second, as a peer's script says."""
    output = python(str(HERE / script), *arguments)
    return float(json.loads(output.strip().splitlines()[-1])["images_per_second"])


def ours(folder: Path, steps: int, *overrides: str, command: tuple[str, str] = ("-m", "saltseg.benchmark")) -> float:
    """Images per second of saltseg's own training, the second epoch's."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    trainer = (*SHORT, f"trainer.limit_train_batches={steps}")
    python(*command, "axes=null", *RESNET34, *trainer, *overrides, f"hydra.run.dir={directory}/run")
    return float(json.loads((directory / "run" / "benchmark.json").read_text())[0]["images_per_second"])


def start_up(folder: Path) -> float:
    """Seconds to the end of the first step over the least that they could be, the median of a few pairs."""
    stop = ("+callbacks.stop={_target_: first_step.StopAfterFirst}", "trust=[first_step]")
    ratios = []
    for _ in range(STARTS):
        least = until("-c", LEAST)
        directory = tempfile.mkdtemp(dir=folder)
        ratios.append(until("-m", "saltseg.train", *RESNET34, *stop, f"hydra.run.dir={directory}/run") / least)
    return statistics.median(ratios)


def memory(folder: Path, epochs: int) -> float:
    """Gigabytes at the peak of a training of so many epochs, scoring and pictures included."""
    code = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "saltseg.train", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    directory = tempfile.mkdtemp(dir=folder)
    trainer = (f"trainer.max_epochs={epochs}", "trainer.limit_train_batches=12", "callbacks.progress=null")
    output = python("-c", code, *RESNET34, *trainer, f"hydra.run.dir={directory}/run")
    return int(output.split()[-1]) / (1 << 20)


def validation(data: SaltDataModule, predictor: Predictor) -> tuple[float, float]:
    """Seconds of a validation epoch without scores, and with the whole curve's."""
    part = data.part("val")
    start = time.perf_counter()
    maps = predictor(part.images)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    Counts.of(count(maps, part.masks)).summary()
    return bare, bare + time.perf_counter() - start


def extracted(folder: Path) -> Path:
    """The training images as files, as the plain script wants them."""
    with zipfile.ZipFile(TGS / "train.zip") as file:
        file.extractall(folder / "train")
    return folder / "train"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    console, figures = Console(width=120), defaultdict(list)
    run = Run.finished(args.run)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at = ("--data", str(extracted(folder)))
        for _ in range(args.rounds):
            steps = ("--steps", str(args.steps))
            figures["plain"].append(peer("plain_unet.py", *at, "--steps", "10"))
            figures["tuned"].append(peer("plain_unet.py", *at, *steps, "--tuned"))
            own = ours(folder, args.steps, "optimizer.fused=null", command=("-c", AS_TORCH_DOES))
            figures["saltseg, speed-ups off"].append(own)
            figures["saltseg"].append(ours(folder, args.steps))
            figures["saltseg, compile=true"].append(ours(folder, args.steps, "compile=true"))
            figures["tuned"].append(peer("plain_unet.py", *at, *steps, "--tuned"))
            figures["Lightning + SMP"].append(peer("lightning_smp.py", *at, *steps))
            if importlib.util.find_spec("fastai"):
                figures["fastai"].append(peer("fastai_unet.py", *at, "--steps", "6"))
            figures["start"].append(start_up(folder))
        for epochs in (1, 4):
            figures[f"memory of {epochs}"].append(memory(folder, epochs))
    data = rebuild_data(run)
    predictor = assemble([run], weights="last", tta="none", image_size=data.image_size, batch_size=32)
    predictor(data.part("val").images)
    bare, scored = zip(*(validation(data, predictor) for _ in range(args.rounds)), strict=True)
    ways = measure_backends(run, data, tta="hflip")
    middle = {k: statistics.median(v) for k, v in figures.items()}

    table = Table("training, ResNet34, batch 32", "images/s", "over plain", "over tuned", box=None)
    for who in TRAINERS:
        if who in middle:
            speed = middle[who]
            ratios = (f"{speed / middle[base]:.2f}" for base in ("plain", "tuned"))
            table.add_row(who, f"{speed:.1f}", *ratios)
    console.print(table)
    table = Table("what", "measured", "bar", box=None)
    for what, who, bar in (("own loop", "saltseg, speed-ups off", 0.97), ("all of it", "saltseg", 1.3)):
        table.add_row(f"{what} over tuned", f"{middle[who] / middle['tuned']:.2f}", f"≥ {bar}")
    table.add_row("validation with the curve", f"{statistics.median(scored) / statistics.median(bare):.3f}", "≤ 1.05")
    table.add_row("start to first step over the least", f"{middle['start']:.2f}", "≤ 1.5")
    peaks = ", ".join(f"{middle[f'memory of {n}']:.2f} GB after {n}" for n in (1, 4))
    table.add_row("memory at the peak", f"{peaks} epochs", "≤ 3 GB")
    console.print(table)
    console.print(backend_table(ways, max(ways, key=lambda r: r["images_per_second"])))


if __name__ == "__main__":
    main()
