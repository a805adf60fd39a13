"""Minutes to the article's score: three seeds of a speedrun experiment, each timed from its command's start.

    SALTSEG_TGS=... python tests/benchmarks/speedrun.py speedrun OUTPUT [override ...]

A seed moves the split and the training. Prints a row a seed and the mean; OUTPUT has them as ``speedrun.csv`` and the
history of each beside.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from saltseg.run import Run

SEEDS = (0, 1, 2)


def main(experiment: str, output: str, *overrides: str) -> None:
    """Run the seeds one after the other."""
    rows = []
    for seed in SEEDS:
        directory = Path(output, f"{experiment}_{seed}")
        command = [sys.executable, "-m", "saltseg.train", f"experiment={experiment}", *overrides]
        start = time.perf_counter()
        subprocess.run(
            [*command, f"seed={seed}", f"data.split.seed={seed}", f"hydra.run.dir={directory}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        minutes = (time.perf_counter() - start) / 60
        run = Run(directory)
        metrics = run.metrics()
        shutil.copyfile(run.history_file, Path(output, f"history_{seed}.csv"))
        rows.append(
            {
                "seed": seed,
                "iou": round(metrics["heldout/iou"], 4),
                "map": round(metrics["heldout/map"], 4),
                "minutes": round(minutes, 2),
                "training": round(metrics["train_seconds"] / 60, 2),
                "images_per_second": metrics["images_per_second"],
            }
        )
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(Path(output, "speedrun.csv"), index=False)
    print(f"mean iou {table.iou.mean():.4f}, mean minutes {table.minutes.mean():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
