"""``python -m saltseg.benchmark``: which settings make training fastest on this machine."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from saltseg.config import app
from saltseg.errors import SaltsegError
from saltseg.profiling import STAGES, Stages
from saltseg.report import console
from saltseg.run import write_whole
from saltseg.train import begin, make_data, make_module, make_trainer, suit_machine

#: Measured and shown, but no matter of speed alone.
CHANGES_LEARNING = ("data.batch_size",)

Row = dict[str, Any]


def benchmark(config: DictConfig) -> None:
    """Measure one setting here, or those of ``axes`` each in a process of its own, and write down the best."""
    axes = [(key, values.split(",")) for key, _, values in (str(axis).partition("=") for axis in config.axes or [])]
    directory = Path(HydraConfig.get().runtime.output_dir)
    if axes:
        rows, best = search(axes, directory)
    else:
        rows, best = [measure(config)], {}
    write_whole(directory / "benchmark.json", json.dumps(rows, indent=2) + "\n")
    console.print(as_table(rows))
    if axes:
        machine = directory / "conf" / "machine" / "fastest.yaml"
        machine.parent.mkdir(parents=True)
        write_whole(machine, as_yaml(best, rows))
        console.print(f"best here: [bold]{' '.join(f'{k}={v}' for k, v in best.items())}[/bold]")
        console.print(f"to use it: python -m saltseg.train --config-dir {directory / 'conf'} machine=fastest …")


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


def search(axes: list[tuple[str, list[str]]], directory: Path) -> tuple[list[Row], dict[str, str]]:
    """Go through the axes, keeping the best of each; returns all that was measured, and the best setting."""
    best = {axis: values[0] for axis, values in axes}
    rows = [in_process(best, directory / "settings" / "0")]
    fastest = rows[0]["images_per_second"]
    for axis, values in axes:
        chosen = best[axis]
        for value in values[1:]:
            row = in_process({**best, axis: value}, directory / "settings" / str(len(rows)))
            rows.append(row)
            if row["images_per_second"] > fastest and axis not in CHANGES_LEARNING:
                fastest, chosen = row["images_per_second"], value
        best[axis] = chosen
    return rows, {axis: value for axis, value in best.items() if axis not in CHANGES_LEARNING}


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


def as_table(rows: list[Row]) -> Table:
    """A row a setting; of each but the first, only what differs from the best so far is named."""
    table = Table("setting", "images/s", "ratio", "GB", *STAGES, "other", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    first, fastest = rows[0], max(rows, key=lambda r: r["images_per_second"])
    for row in rows:
        setting = {k: v for k, v in row["setting"].items() if row is first or v != first["setting"].get(k)}
        table.add_row(
            " ".join(f"{k}={v}" for k, v in setting.items()) or "as composed",
            f"{row['images_per_second']:.1f}",
            f"{row['images_per_second'] / first['images_per_second']:.2f}",
            f"{row['gigabytes']:.1f}",
            *(f"{row[stage]:.0%}" for stage in (*STAGES, "other")),
            style="bold" if row is fastest else "",
        )
    return table


def as_yaml(best: dict[str, str], rows: list[Row]) -> str:
    """A choice for the group ``machine`` of ``train``."""
    speed = max(r["images_per_second"] for r in rows if all(r["setting"].get(k) == v for k, v in best.items()))
    about = f"# What trained fastest on this machine: {speed:.1f} images/s."
    typed = OmegaConf.from_dotlist([f"{key}={value}" for key, value in best.items()])
    return f"# @package _global_\n{about}\n{OmegaConf.to_yaml(typed)}"


main = app("benchmark")(benchmark)

if __name__ == "__main__":
    main()
