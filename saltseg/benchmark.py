"""``python -m saltseg.benchmark``: which settings train fastest on this machine, and which backend predicts fastest."""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import lightning
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from saltseg.backends import Backend
from saltseg.config import app
from saltseg.data.datamodule import SaltDataModule
from saltseg.errors import SaltsegError
from saltseg.inference import TTA, Predictor, assemble, load_net, rebuild_data
from saltseg.metrics import CURVE, Counts
from saltseg.profiling import STAGES, Stages
from saltseg.report import console
from saltseg.run import Run, write_whole
from saltseg.scoring import count
from saltseg.train import begin, make_data, make_module, make_trainer, suit_machine

#: Measured and shown, but no matter of speed alone.
CHANGES_LEARNING = ("data.batch_size",)
#: How much faster a setting must be to replace a simpler one: more than two runs of the same differ.
CLEARLY = 1.03
#: Images that a backend is timed on.
TIMED = 256

Row = dict[str, Any]


def benchmark(config: DictConfig) -> None:
    """Measure one setting here, those of ``axes`` each in a process of its own, or the backends with a ``run``."""
    axes = read_axes(config.axes or [])
    directory = Path(HydraConfig.get().runtime.output_dir)
    if config.run is not None:
        run = Run.finished(config.run)
        rows = measure_backends(run, rebuild_data(run, run.config()), config.trust)
        fastest = max(rows, key=lambda r: r["images_per_second"] if r["backend"] else 0)
        console.print(backend_table(rows))
        console.print(f"fastest here: [bold]backend={fastest['backend']}[/bold]")
    elif axes:
        rows, best = search(axes, directory)
        console.print(as_table(rows, best))
        machine = directory / "conf" / "machine" / "fastest.yaml"
        machine.parent.mkdir(parents=True)
        write_whole(machine, as_yaml(best))
        console.print(f"best here: [bold]{' '.join(f'{k}={v}' for k, v in for_speed(best).items())}[/bold]")
        console.print(f"to use it: python -m saltseg.train --config-dir {directory / 'conf'} machine=fastest …")
    else:
        rows = [measure(config)]
        console.print(as_table(rows, rows[0]))
    write_whole(directory / "benchmark.json", json.dumps(rows, indent=2) + "\n")


def read_axes(axes: list[str]) -> dict[str, list[str]]:
    """``key=a,b`` as a key and its values.

    Raises:
        SaltsegError: if one is not of that form.
    """
    found = {}
    for axis in axes:
        key, _, values = str(axis).partition("=")
        found[key] = [v.strip() for v in values.split(",") if v.strip()]
        if not key or not found[key]:
            raise SaltsegError(f"axes: {axis} is no axis. Expected a key and values to try, as in threads=2,4.")
    return found


def measure(config: DictConfig) -> Row:
    """Train as ``train`` does, for as many steps as the Trainer is told, and time the last epoch."""
    run = begin(config)
    suit_machine(config)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data = make_data(config)
    module = make_module(config, data)
    trainer = make_trainer(config, run, [])
    trainer.fit(module, datamodule=data)
    stages = trainer.profiler  # type: ignore[attr-defined]
    if not isinstance(stages, Stages):
        raise SaltsegError("trainer.profiler: a benchmark needs saltseg.profiling.Stages there.")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "setting": {},
        "images_per_second": float(run.history()["images_per_second"].iloc[-1]),
        "gigabytes": round(kilobytes / (1 << (30 if sys.platform == "darwin" else 20)), 2),
        **{stage: round(share, 4) for stage, share in stages.shares.items()},
    }


def search(axes: dict[str, list[str]], directory: Path) -> tuple[list[Row], Row]:
    """Go through the axes, keeping the best of each; returns all that was measured, and the best of them."""
    best = in_process({axis: values[0] for axis, values in axes.items()}, directory / "settings" / "0")
    rows = [best]
    for axis, values in axes.items():
        around = best["setting"]
        for value in values[1:]:
            row = in_process({**around, axis: value}, directory / "settings" / str(len(rows)))
            rows.append(row)
            if axis not in CHANGES_LEARNING and row["images_per_second"] > CLEARLY * best["images_per_second"]:
                best = row
    return rows, best


def for_speed(row: Row) -> dict[str, str]:
    """Of its setting what changes nothing that is learned."""
    return {axis: value for axis, value in row["setting"].items() if axis not in CHANGES_LEARNING}


def in_process(setting: dict[str, str], directory: Path) -> Row:
    """Measure a setting in a process of its own: its memory and threads are no other's.

    Raises:
        SaltsegError: if that fails.
    """
    hydra = HydraConfig.get()
    own = [a for s in hydra.runtime.config_sources if s.provider == "command-line" for a in ("--config-dir", s.path)]
    command = [sys.executable, "-m", "saltseg.benchmark", *own, *hydra.overrides.task, "axes=null"]
    command += [f"hydra.run.dir={directory}"]
    command += [f"{key}={value}" for key, value in setting.items()]
    with console.status(" ".join(command[-len(setting) :])):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SaltsegError(f"{' '.join(command[2:])} failed: {done.stderr.strip()[-2000:]}")
    row: Row = json.loads((directory / "benchmark.json").read_text())[0]
    return {**row, "setting": setting}


def as_table(rows: list[Row], best: Row) -> Table:
    """A row a setting, the best in bold; of each but the first, only what differs from the first is named."""
    table = Table("setting", "images/s", "ratio", "GB", *STAGES, "other", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    first = rows[0]
    for row in rows:
        setting = {k: v for k, v in row["setting"].items() if row is first or v != first["setting"].get(k)}
        table.add_row(
            " ".join(f"{k}={v}" for k, v in setting.items()) or "as composed",
            f"{row['images_per_second']:.1f}",
            f"{row['images_per_second'] / first['images_per_second']:.2f}",
            f"{row['gigabytes']:.1f}",
            *(f"{row[stage]:.0%}" for stage in (*STAGES, "other")),
            style="bold" if row is best else "",
        )
    return table


def as_yaml(best: Row) -> str:
    """A choice for the group ``machine`` of ``train``."""
    about = f"# What trained fastest on this machine: {best['images_per_second']:.1f} images/s."
    typed = OmegaConf.from_dotlist([f"{key}={value}" for key, value in for_speed(best).items()])
    return f"# @package _global_\n{about}\n{OmegaConf.to_yaml(typed)}"


def measure_backends(run: Run, data: SaltDataModule, trust: Sequence[str] = (), tta: TTA | None = None) -> list[Row]:
    """How fast every installed backend predicts, and its mean IoU over the held-out images.

    ``tta`` None is that of the run. Last comes PyTorch in float32, which the others are compared with, its ``backend``
    None.
    """
    about = run.metrics()
    weights = about["weights"]
    held_out = data.select(np.concatenate([data.division.indices(p) for p in ("val", "test")]))
    timed = [held_out.images[k % len(held_out)] for k in range(TIMED)]

    def row(backend: str | None, predictor: Predictor) -> Row:
        predictor(timed[: predictor.batch_size])
        start = time.perf_counter()
        predictor(timed)
        speed = len(timed) / (time.perf_counter() - start)
        iou = Counts.of(count(predictor(held_out.images), held_out.masks)).summary()["iou"][CURVE.index(0.5)]
        return {"backend": backend, "images_per_second": speed, "iou": float(iou)}

    packages = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
    common: dict[str, Any] = {
        "tta": tta or run.metrics()["tta"],
        "batch_size": data.batch_size,
        "image_size": data.image_size,
    }
    rows = [
        row(name, assemble([run], weights=weights, trust=trust, backend=name, **common))
        for name in get_args(Backend)
        if importlib.util.find_spec(packages[name])
    ]
    return [*rows, row(None, Predictor([load_net(run, weights, trust)], fit=data.fit, **common))]


def backend_table(rows: list[Row]) -> Table:
    """A row a backend, the fastest in bold."""
    table = Table("backend", "images/s", "ratio", "IoU", "from float32", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    plain, fastest = rows[-1], max(rows, key=lambda r: r["images_per_second"])
    for row in rows:
        table.add_row(
            row["backend"] or "torch in float32",
            f"{row['images_per_second']:.1f}",
            f"{row['images_per_second'] / plain['images_per_second']:.2f}",
            f"{row['iou']:.4f}",
            "" if row is plain else f"{row['iou'] - plain['iou']:+.4f}",
            style="bold" if row is fastest else "",
        )
    return table


main = app("benchmark")(benchmark)

if __name__ == "__main__":
    main()
