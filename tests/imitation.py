"""A search whose trainings are imitations: they write what a search looks at, and need no time.

As a script it is such a training. Its score rises to ``x`` and falls in the last epoch; with ``x < 0`` it fails.
"""

import json
import os
import sys
import time
from pathlib import Path

EPOCHS = 6


def value(x, epoch):
    return x * (1 - 0.5 ** (epoch + 1)) if epoch < EPOCHS - 1 else 0.0


def best(x):
    return value(x, EPOCHS - 2)


def train(overrides):
    given = dict(text.split("=", 1) for text in overrides)
    x, pause = float(given["x"]), float(given["pause"])
    run = Path(json.loads(given["hydra.run.dir"]))
    (run / "checkpoints").mkdir()  # an error when another process is at work there
    (run / "pid").write_text(str(os.getpid()))
    if x < 0:
        (run / "metrics.json").write_text(json.dumps({"status": "failed", "error": "ValueError: x is negative"}))
        sys.exit(1)
    rows = ["epoch,val/iou"]
    if "ckpt_path" in given:
        before = Path(json.loads(given["ckpt_path"])).parent.parent
        rows = (before / "history.csv").read_text().splitlines()
    try:
        for epoch in range(len(rows) - 1, EPOCHS):
            time.sleep(pause)
            rows.append(f"{epoch},{value(x, epoch)}")
            (run / "history.partial").write_text("\n".join(rows) + "\n")
            (run / "history.partial").replace(run / "history.csv")
            print(f"epoch {epoch}", flush=True)
            (run / "checkpoints" / "last.ckpt").write_text(str(epoch))
    except KeyboardInterrupt:
        (run / "metrics.json").write_text(json.dumps({"status": "interrupted"}))
        sys.exit(130)


def use(patch):
    """Let searches train by this file, and notice soon that a process has died."""
    from saltseg.searching import study

    patch.setattr(study, "command", lambda overrides, config_dirs: [sys.executable, __file__, *overrides])
    patch.setattr(study, "HEARTBEAT", 1)
    patch.setattr(study, "GRACE", 3)


def search(directory, space, *, pause=0.0, warmup=1, watch=lambda search: None):
    from saltseg.searching.space import domain
    from saltseg.searching.study import Search, open_study

    directory.mkdir(exist_ok=True)
    domains = {key: domain(key, given) for key, given in space.items()}
    study = open_study(directory / "study.db", {"base": []}, seed=0, warmup=warmup)
    return Search(directory, study, [f"pause={pause}"], domains, "val/iou", (), watch, lambda: time.sleep(0.02))


if __name__ == "__main__":
    train(sys.argv[1:])
