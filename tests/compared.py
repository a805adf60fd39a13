"""Runs as training leaves them for a comparison, made without any: predictions are the truth, moved and blurred."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.ndimage import gaussian_filter, shift

from saltseg.data.images import Images
from saltseg.data.synthetic import Synthetic
from saltseg.run import Run
from saltseg.scoring import Part, arrays, curve, predictions, scores, split_table

SPLIT = {"train": 40, "val": 20, "test": 30}


@cache
def synthetic(data_seed: int = 0, folds: int = 10, fold: int | None = None) -> Synthetic:
    return Synthetic(data_seed=data_seed, split=SPLIT, folds=folds, fold=fold)


def predict(images: Images, down: int, noise: float, seed: int) -> list[np.ndarray]:
    """Probabilities whose salt lies ``down`` samples too deep."""
    rng = np.random.default_rng(seed)
    maps = []
    for mask in images.masks:
        moved = shift(np.where(mask == 1, 0.9, 0.1), (down, 0), order=0, mode="nearest")
        maps.append(np.clip(moved + noise * gaussian_filter(rng.normal(size=mask.shape), 2) * 7, 0, 1))
    return [m.astype(np.float32) for m in maps]


def fake_run(
    directory: Path,
    *,
    model: str = "resnet18",
    down: int = 0,
    noise: float = 0.1,
    seed: int = 0,
    threshold: float = 0.5,
    data_seed: int = 0,
    folds: int = 10,
    fold: int | None = None,
    dataset: str = "synthetic",
    settings: Mapping[str, Any] | None = None,
    trained_by: str | None = None,
    leave_out: Sequence[str] = (),
) -> Path:
    """A finished run in ``directory``, less the arrays that it ``leaves out`` of ``scores.npz``."""
    data = synthetic(data_seed, folds, fold)
    run = Run(directory)
    directory.mkdir(parents=True)
    run.write_config(
        {
            "data": {
                "_target_": "saltseg.data.synthetic.Synthetic",
                "data_seed": data_seed,
                "split": SPLIT,
                "folds": folds,
                "fold": fold,
            },
            "model": {"encoder": model},
            "seed": seed,
            "threshold": threshold,
            "choices": {"data": dataset, "model": model},
            **OmegaConf.to_container(OmegaConf.create(dict(settings or {}))),  # type: ignore[dict-item]
        }
    )
    parts = {}
    for name in ("val", "test"):
        images = data.part(name)
        parts[name] = Part.of(images, predict(images, down, noise, seed + (fold or 0)))
    run.write_table(run.path / "split.csv", split_table(data))
    run.write_table(run.path / "thresholds.csv", curve(parts["val"]))
    held = {i: int(f) for i, f in zip(data.images.ids, data.division.fold, strict=True)}
    run.write_table(run.path / "predictions.csv", predictions(parts, threshold, held))
    run.write_arrays(run.path / "scores.npz", **{k: v for k, v in arrays(parts).items() if k not in leave_out})
    about = {"dataset": dataset, "trained_by": trained_by or directory.name, "status": "finished"}
    run.write_metrics({**scores(parts, threshold), **about})
    return directory
