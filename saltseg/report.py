"""What a run tells the person who watches it."""

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import Images
from saltseg.hardware import detect
from saltseg.metrics import SCORES
from saltseg.module import SaltModule
from saltseg.pictures import figures
from saltseg.run import Run

console = Console(soft_wrap=True)


def announce(config: DictConfig, data: SaltDataModule, module: SaltModule) -> None:
    """What is about to be trained, on what, and how."""
    counts = {p: len(data.part(p)) for p in ("train", "val", "test")}
    weights = sum(p.numel() for p in module.net.parameters()) / 1e6
    console.print(f"data: [bold]{config.choices.data}[/bold], " + ", ".join(f"{n} {p}" for p, n in counts.items()))
    encoder = module.net.encoder_init
    console.print(f"model: [bold]{config.choices.model}[/bold], {weights:.1f} M weights, encoder {encoder}")
    console.print(
        f"machine: {detect().reason}; training on {config.trainer.accelerator} in {config.trainer.precision}, "
        f"{config.memory_format.value}"
    )


def draw_data(run: Run, data: SaltDataModule) -> None:
    """The pictures that are known before training: samples and an augmented batch."""
    draw_samples(data, run.figures / "samples.png")
    with torch.random.fork_rng(devices=[]):  # a picture must not change what is learned
        batch = next(iter(data.train_dataloader()))
    figures.batch(batch["image"][:, 0].numpy(), batch["mask"][:, 0].numpy(), run.figures / "batch.png")


def draw_samples(data: SaltDataModule, path: Path, seed: int = 0) -> None:
    """The article's picture: 20 random images with their masks."""
    samples = pick(data, 20, seed)
    figures.samples(samples.images, samples.masks, samples.titles(), path)


def draw_sheet(data: SaltDataModule, path: Path, seed: int = 0) -> None:
    """What the whole dataset is like: 96 random images, salt outlined."""
    images = pick(data, 96, seed)
    figures.sheet(images.images, images.masks, path)


def pick(data: SaltDataModule, count: int, seed: int) -> Images:
    """Random images, or all of them where there are fewer."""
    total = len(data.images)
    return data.select(np.random.default_rng(seed).choice(total, min(count, total), replace=False))


def show_scores(run: Run) -> None:
    """A short table of the scores, and where everything is."""
    metrics = run.metrics()
    title = f"{metrics['dataset']}, weights={metrics['weights']}, tta={metrics['tta']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("at", justify="right")
    for score in SCORES:
        table.add_column(score, justify="right")
    rows = [(p, "", metrics["threshold"]) for p in ("val", "test", "heldout")]
    if metrics.get("threshold_best") != metrics["threshold"]:
        rows += [(p, "_best", metrics.get("threshold_best")) for p in ("val", "test", "heldout")]
    for part, suffix, threshold in rows:
        if f"{part}{suffix}/iou" in metrics:
            values = [metrics[f"{part}{suffix}/{s}"] for s in SCORES]
            table.add_row(part, f"{threshold:g}", *("–" if v is None else f"{v:.4f}" for v in values))
    console.print(table)
    console.print(f"run: {run.path}\nfigures: {run.figures}")
