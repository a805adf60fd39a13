"""IoU against minutes: both speedruns and the article's recipe in the plain script.

    python tests/benchmarks/speedrun_chart.py docs/results/speedrun docs/results/speedrun_scratch

A curve is the validation IoU of each epoch (no TTA) by the minutes of training until then; a star is what counts: mean
IoU over the held-out images by the minutes of the whole command. The plain script learns as ``article_resnet34`` does,
at its own images per second. Draws docs/figures/speedrun.png.
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from saltseg.pictures.style import BLUE, DASHES, GREEN, INK, MUTED, NORMAL, SMALL, save

TOP = Path(__file__).parents[2]
MARK = 0.7804
TRAINED_ON = 3420
#: Images per second of the article's recipe, as compare.py measures them.
SPEEDS = {"the article's recipe, plain script": (14.5, "-"), "the same, tuned script": (47.8, DASHES)}


def main(*folders: str) -> None:
    """Draw it."""
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    axes = figure.subplots()
    article = pd.read_csv(TOP / "docs" / "results" / "article_resnet34" / "history.csv")
    for label, (speed, style) in SPEEDS.items():
        minutes = (article["epoch"] + 1) * TRAINED_ON / speed / 60
        axes.plot(minutes, article["val/iou"], linestyle=style, color=MUTED, label=label, linewidth=1)
    for folder, color, start in zip(folders, (GREEN, BLUE), ("ImageNet weights", "random weights"), strict=True):
        table = pd.read_csv(Path(folder, "speedrun.csv"))
        for seed in table["seed"]:
            history = pd.read_csv(Path(folder, f"history_{seed}.csv"))
            axes.plot(history["seconds"].cumsum() / 60, history["val/iou"], color=color, linewidth=1)
        axes.plot(
            table["minutes"], table["iou"], "*", color=color, markersize=10, label=f"{Path(folder).name}: {start}"
        )
    axes.axhline(MARK, color=INK, linewidth=0.8, linestyle=DASHES)
    axes.text(100, MARK + 0.008, f"{MARK}", fontsize=SMALL, color=INK)
    axes.set(xscale="log", xlabel="minutes", ylabel="mean IoU", ylim=(0.3, 0.86), xlim=(0.2, 250))
    ticks = {0.25: "¼", 0.5: "½", 1: "1", 2: "2", 4: "4", 10: "10", 20: "20", 60: "60", 200: "200"}
    axes.set_xticks([*ticks], [*ticks.values()], fontsize=SMALL)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=SMALL, frameon=False)
    axes.set_title("Minutes to the article's score, two cores", fontsize=NORMAL, loc="left")
    save(figure, TOP / "docs" / "figures" / "speedrun.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
