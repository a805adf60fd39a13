"""``python -m saltseg.evaluate``: score finished runs again, at another threshold, split, TTA, or as an ensemble."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from saltseg.command import app
from saltseg.errors import SaltsegError, near_miss
from saltseg.inference import assemble, rebuild_data
from saltseg.metrics import to_threshold
from saltseg.report import show_scores
from saltseg.run import Run
from saltseg.scoring import HELD_OUT, score_run
from saltseg.sweep import named_runs


def evaluate(config: DictConfig) -> None:
    """Score ``run`` and write a directory with the scores' files."""
    runs = named_runs(config.run)
    first = runs[0].config()
    parts = (config.split,) if config.split is not None else HELD_OUT
    for part in parts:
        if part not in HELD_OUT:
            raise SaltsegError(f"split={part}: only val and test are held out.{near_miss(str(part), HELD_OUT)}")
    refuse_leaks(runs, parts)

    weights = config.weights.value if config.weights is not None else first.weights
    tta = config.tta.value if config.tta is not None else first.tta
    threshold = choose_threshold(config.threshold, runs, parts)
    data = rebuild_data(runs[0], config.trust, config.data.root)
    predictor = assemble(
        runs,
        weights=weights,
        tta=tta,
        image_size=data.image_size,
        batch_size=data.batch_size,
        trust=config.trust,
    )
    result = Run(Path(HydraConfig.get().runtime.output_dir))
    result.figures.mkdir(exist_ok=True)
    with result.outcome():
        metrics = score_run(result, data, predictor, threshold, parts, own_temperature(runs))
        about = {"weights": weights, "tta": tta, "dataset": runs[0].metrics()["dataset"], "status": "finished"}
        result.write_metrics({**metrics, **about, "runs": [str(run.path) for run in runs]})
    show_scores(result)


def own_temperature(runs: list[Run]) -> float | None:
    """What a run's probabilities are tempered by; an ensemble's are others, and runs of old don't know theirs."""
    return runs[0].metrics().get("temperature") if len(runs) == 1 else None


def choose_threshold(asked: Any, runs: list[Run], parts: tuple[str, ...]) -> float | None:
    """The threshold to score at; None lets the best one of ``val`` be found.

    Raises:
        SaltsegError: if it is neither a number in (0, 1) nor ``best``, or the best can't be known.
    """
    if asked is None:
        return float(runs[0].config().threshold)
    if asked == "best":
        if "val" in parts:
            return None
        if len(runs) == 1:
            return float(runs[0].metrics()["threshold_best"])
        raise SaltsegError(
            "threshold=best of an ensemble is chosen on val: leave split= out, so that val is scored too."
        )
    return to_threshold(asked)


def refuse_leaks(runs: list[Run], parts: tuple[str, ...]) -> None:
    """An ensemble's score is worthless on images that one of its members has learned.

    Raises:
        SaltsegError: if a member was trained on an image of ``parts``.
    """
    tables = [run.split() for run in runs]
    scored = set(tables[0].loc[tables[0]["split"].isin(parts), "id"])
    for run, table in zip(runs, tables, strict=True):
        seen = scored & set(table.loc[table["split"] == "train", "id"])
        if seen:
            raise SaltsegError(
                f"run={run.path} was trained on {len(seen)} of the {len(scored)} images to be scored (the first is "
                f"{min(seen)}), so its score on them says nothing. Name runs of one split, or score split=test alone."
            )


main = app("evaluate")(evaluate)

if __name__ == "__main__":
    main()
