"""``python -m saltseg.benchmark``: which settings train fastest on this machine, and which backend predicts fastest."""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import lightning
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from saltseg.backends import Backend
from saltseg.command import app
from saltseg.data.datamodule import SaltDataModule
from saltseg.errors import SaltsegError
from saltseg.files import write_whole
from saltseg.inference import TTA, Predictor, assemble, load_net, rebuild_data
from saltseg.metrics import CURVE, Counts
from saltseg.profiling import Stages
from saltseg.report import console
from saltseg.run import Run
from saltseg.scoring import count
from saltseg.train import begin, make_data, make_module, make_trainer, suit_machine

#: Measured and shown, but no matter of speed alone.
CHANGES_LEARNING = ("data.batch_size",)
#: How much faster a setting must be to replace a simpler one: more than two runs of the same differ.
CLEARLY = 1.03
#: Headings of the stages' columns.
SHORT = {"data": "data", "fwd": "forward", "bwd": "backward", "opt": "optimizer", "met": "metrics", "log": "logging"}
#: Images that a backend is timed on.
TIMED = 256

Row = dict[str, Any]


def benchmark(config: DictConfig) -> None:
    """Measure one setting here, those of ``axes`` each in a process of its own, or the backends with a ``run``."""
    axes = read_axes(config.axes or [])
    directory = Path(HydraConfig.get().runtime.output_dir)
    if config.run is not None:
        run = Run.finished(config.run)
        moved = any(o.partition("=")[0] == "data.root" for o in HydraConfig.get().overrides.task)
        data = rebuild_data(run, config.trust, config.data.root if moved else None)
        rows = measure_backends(run, data, config.trust)
        fastest = max(rows[:-1], key=lambda r: r["images_per_second"])
        console.print(backend_table(rows, fastest))
        console.print(f"fastest here: [bold]backend={fastest['backend']}[/bold]")
    elif axes:
        rows, best = search(axes)
        console.print("begins with: " + overrides_of(rows[0]["setting"]))
        console.print(as_table(rows, best))
        machine = directory / "conf" / "machine" / "fastest.yaml"
        machine.parent.mkdir(parents=True)
        write_whole(machine, as_yaml(best))
        console.print(f"best here: [bold]{overrides_of(for_speed(best))}[/bold]")
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
    """Train as ``train`` does, for as many steps as the Trainer is told, and time the last epoch.

    Shares of the time are those of a whole epoch.
    """
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
    # The epoch is a short one, but what happens once in it is as long as ever.
    steps = len(data.train_dataloader()) / trainer.num_training_batches
    validated = len(data.val_dataloader()) / max(sum(map(int, trainer.num_val_batches)), 1)
    longer = {**dict.fromkeys(("data", "forward", "backward", "optimizer", "other"), steps), "metrics": validated}
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "setting": {},
        "images_per_second": float(run.history()["images_per_second"].iloc[-1]),
        "gigabytes": round(kilobytes / (1 << (30 if sys.platform == "darwin" else 20)), 2),
        **{stage: round(share, 4) for stage, share in stages.shares(**longer).items()},
    }


def search(axes: dict[str, list[str]]) -> tuple[list[Row], Row]:
    """Go through the axes, keeping the best of each; returns all that was measured, and the best of them."""
    best = in_process({axis: values[0] for axis, values in axes.items()})
    rows = [best]
    for axis, values in axes.items():
        around = best["setting"]
        for value in values[1:]:
            row = {**in_process({**around, axis: value}), "tried": f"{axis}={value}"}
            rows.append(row)
            if axis not in CHANGES_LEARNING and row["images_per_second"] > CLEARLY * best["images_per_second"]:
                best = row
    return rows, best


def for_speed(row: Row) -> dict[str, str]:
    """Of its setting what changes nothing that is learned."""
    return {axis: value for axis, value in row["setting"].items() if axis not in CHANGES_LEARNING}


def overrides_of(setting: dict[str, str]) -> str:
    """As one types it."""
    return " ".join(f"{axis}={value}" for axis, value in setting.items())


def in_process(setting: dict[str, str]) -> Row:
    """Measure a setting in a process of its own: its memory and threads are no other's. Its run is not kept.

    Raises:
        SaltsegError: if that fails.
    """
    hydra = HydraConfig.get()
    own = [a for s in hydra.runtime.config_sources if s.provider == "command-line" for a in ("--config-dir", s.path)]
    with TemporaryDirectory(dir=hydra.runtime.output_dir) as directory, console.status(overrides_of(setting)):
        command = [sys.executable, "-m", "saltseg.benchmark", *own, *hydra.overrides.task, "axes=null"]
        command += [f"hydra.run.dir={directory}/run", *(f"{axis}={value}" for axis, value in setting.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SaltsegError(f"{' '.join(command[2:])} failed: {done.stderr.strip()[-2000:]}")
        row: Row = json.loads(Path(directory, "run", "benchmark.json").read_text())[0]
    return {**row, "setting": setting}


def as_table(rows: list[Row], best: Row) -> Table:
    """A row a setting, the best in bold; each but the first is named by what was tried on the best of those above."""
    table = Table("setting", "images/s", "ratio", "GB", *SHORT, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.get("tried", "as it begins"),
            f"{row['images_per_second']:.1f}",
            f"{row['images_per_second'] / rows[0]['images_per_second']:.2f}",
            f"{row['gigabytes']:.1f}",
            *(f"{row[stage]:.0%}" for stage in SHORT.values()),
            style="bold" if row is best else "",
        )
    table.caption = "Shares of the time of an epoch: in " + ", ".join(f"{k} {v}" for k, v in SHORT.items() if k != v)
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
        "tta": tta or about["tta"],
        "batch_size": data.batch_size,
        "image_size": data.image_size,
    }
    rows = [
        row(name, assemble([run], weights=weights, trust=trust, backend=name, **common))
        for name in get_args(Backend)
        if importlib.util.find_spec(packages[name])
    ]
    return [*rows, row(None, Predictor([load_net(run, weights, trust)], fit=data.fit, **common))]


def backend_table(rows: list[Row], fastest: Row) -> Table:
    """A row a backend, the fastest in bold."""
    table = Table("backend", "images/s", "ratio", "IoU", "from float32", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    plain = rows[-1]
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
