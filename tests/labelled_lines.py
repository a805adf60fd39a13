"""The table and the picture of docs/own_survey.md, from the runs of ``experiment=labelled_lines``.

``python tests/labelled_lines.py SWEEP [SWEEP …] --line 1110 --picture lines.png --as-is RUN``
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from omegaconf import DictConfig

from saltseg.comparison.scored import Scored
from saltseg.data.images import IGNORE
from saltseg.data.survey import Survey
from saltseg.inference import assemble
from saltseg.prediction.bodies import holes
from saltseg.run import Run

STARTS = {"random": "from scratch", "imagenet": "ImageNet", "run": "TGS"}


def start_of(run: Scored) -> str:
    """In words, from what ``metrics.json`` says."""
    return next(words for begin, words in STARTS.items() if str(run.metrics["encoder_init"]).startswith(begin))


def lines_of(run: Scored) -> int:
    """How many it was trained on."""
    return len(run.run.config().data.train_lines)


def scores(lines: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Means over lines, each as predicted, true and labelled pixels: IoU as it is and with holes filled, and the holes.

    ``share`` is theirs of the true salt, ``salt in holes`` what of them is salt.
    """
    rows = []
    for predicted, truth, labelled in lines:
        salt = predicted & labelled
        hole, count = holes(salt, labelled)
        iou, filled = (((s & truth).sum() / (s | truth).sum()) for s in (salt, salt | hole))
        rows.append((iou, filled, count, hole.sum() / truth.sum(), (hole & truth).sum() / max(hole.sum(), 1)))
    return dict(zip(("iou", "filled", "holes", "share", "salt in holes"), np.mean(rows, axis=0), strict=True))


def kept(run: Scored) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What a run kept of its test lines."""
    for name in run.table.index[run.table["split"] == "test"]:
        yield run.probability(name) > 127, *run.mask(name)


def as_it_is(run: Run, config: DictConfig) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The test lines of ``config`` by a network of 101×101 tiles that has seen none of the survey."""
    lines = Survey(config.amplitude, config.labels, lines=list(config.test_lines), tile=101).read()
    predictor = assemble([run], weights=run.config().weights, tta="hflip", image_size=(101, 101), batch_size=8)
    for probability, mask in zip(predictor(lines.images), lines.masks, strict=True):
        yield probability > 0.5, mask == 1, mask != IGNORE


def table(runs: list[Scored]) -> pd.DataFrame:
    """A row for each number of lines and start; means over seeds, if there are several."""
    rows = [{"lines": lines_of(run), "start": start_of(run), **scores(kept(run))} for run in runs]
    order = {words: k for k, words in enumerate(STARTS.values())}
    return (
        pd.DataFrame(rows).groupby(["lines", "start"]).mean().sort_index(key=lambda x: x.map(lambda v: order.get(v, v)))
    )


def picture(runs: list[Scored], line: int, path: Path) -> None:
    """A section, its salt, and what networks of one line and of the most lines make of it."""
    config = runs[0].run.config().data
    section = Survey(config.amplitude, config.labels, lines=[line], tile=config.tile).read()
    (name,), (image,), (mask,) = section.ids, section.images, section.masks
    most = max(map(lines_of, runs))
    chosen = {}
    for start in STARTS.values():
        for count in (1, most):
            found = [run for run in runs if (start_of(run), lines_of(run)) == (start, count)]
            if found and start != STARTS["imagenet"]:
                chosen[f"{start}, {count} line{'s' * (count > 1)}"] = found[0].probability(name) > 127
    figure, axes = plt.subplots(1, 2 + len(chosen), figsize=(2.3 * (2 + len(chosen)), 4.6), layout="constrained")
    for axis in axes:
        axis.imshow(image, cmap="gray", aspect="auto")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_title(name.replace("_", " "), fontsize=9)
    panels = {"salt": mask == 1, **chosen}
    for axis, (title, salt) in zip(axes[1:], panels.items(), strict=True):
        axis.imshow(np.where(salt, 1.0, np.nan), cmap="autumn", vmin=0, vmax=2, alpha=0.5, aspect="auto")
        axis.contour(mask == 1, levels=[0.5], colors="cyan", linewidths=0.8)
        score = ((salt & (mask == 1)).sum()) / (salt | (mask == 1)).sum()
        axis.set_title(title if salt is panels["salt"] else f"{title}\nIoU {score:.2f}", fontsize=9)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores against the number of labelled lines.")
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--line", type=int, default=1110)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--as-is", type=Path, help="a run on TGS, to be scored without any line")
    given = parser.parse_args()
    folders = sorted(path.parent for sweep in given.sweeps for path in sweep.glob("*/metrics.json"))
    runs = [Scored.read(Run.finished(folder)) for folder in folders]
    print(table(runs).round(3).to_string())
    if given.as_is:
        print(f"{given.as_is}, none: {scores(as_it_is(Run.finished(given.as_is), runs[0].run.config().data))}")
    if given.picture:
        picture(runs, given.line, given.picture)


if __name__ == "__main__":
    main()
