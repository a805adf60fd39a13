"""``python -m saltseg.compare``: whether one recipe is better than another, and by how much."""

from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig
from rich import box
from rich.table import Table

from saltseg.command import app
from saltseg.comparison.arms import METRICS, SPLITS, Arm, find, group, groups
from saltseg.comparison.delineation import Delineation, ThresholdCurve, delineate, find_truths, threshold_curve
from saltseg.comparison.page import Findings, report
from saltseg.comparison.verdict import Verdict, differences, reach_verdict, summary
from saltseg.data.images import Images
from saltseg.errors import SaltsegError, check_choice
from saltseg.files import write_whole
from saltseg.inference import rebuild_data
from saltseg.report import console
from saltseg.run import Run

#: Sentences that the terminal shows; all of them stand in ``differences.csv``.
SHOWN = 12
#: Groups of images below which a bootstrap promises too much.
FEW = 20


def compare(config: DictConfig) -> None:
    """Read the runs, reach a verdict, look closer, and write what was found."""
    check_choice("metric", config.metric, METRICS)
    if config.split is not None:
        check_choice("split", config.split, SPLITS)
    runs, notes = find(config.runs if isinstance(config.runs, ListConfig) else [config.runs])
    arms = group(runs, config.split)
    verdict = reach_verdict(arms, config.metric, config.baseline)

    findings = look_closer(verdict, notes, config)
    result = Run(Path(HydraConfig.get().runtime.output_dir))
    page = report(findings)
    result.write_table(result.path / "summary.csv", findings.summary)
    result.write_table(result.path / "differences.csv", differences(verdict))
    write_whole(result.path / "report.html", page)
    show(findings, result)


def look_closer(verdict: Verdict, notes: list[str], config: DictConfig) -> Findings:
    """Beyond the score: surfaces, calibration, thresholds, as far as the runs and the data give them."""
    arms = verdict.arms
    drawn = len(set(groups(verdict.images)))
    if drawn < FEW:
        notes.append(
            f"There are only {drawn} groups of images: intervals over so few are too narrow, and no p is small."
        )
    bare = [run.run.path.name for arm in arms for run in arm.runs if run.arrays is None]
    if bare:
        notes.append(
            f"No scores.npz in {', '.join(bare)}: scores at the best threshold, threshold curves, errors of surfaces, "
            "calibration and pictures are left out."
        )
        return Findings(verdict, summary(verdict, None, None), None, None, None, None, notes)
    data = read_data(arms[0], notes, config)
    truths = find_truths(arms, data)
    delineations: dict[str, Delineation] | None = None
    if truths is None:
        notes.append(
            "These runs were scored before scores.npz held the true masks, and the data isn't here: errors of surfaces "
            "and calibration are left out. Name the data by data.root=, or score the runs again."
        )
    else:
        delineations = {arm.name: delineate(arm, truths) for arm in arms}
    curves: dict[str, ThresholdCurve] = {arm.name: threshold_curve(arm) for arm in arms}
    return Findings(verdict, summary(verdict, delineations, curves), delineations, curves, truths, data, notes)


def read_data(arm: Arm, notes: list[str], config: DictConfig) -> Images | None:
    """The images, to be drawn; without them the report says so."""
    try:
        return rebuild_data(arm.runs[0].run, config.trust, config.data.root).images
    except SaltsegError as error:
        notes.append(f"Images are drawn without their amplitudes, for the data isn't here: {error}")
        return None


def show(findings: Findings, result: Run) -> None:
    """The table, the sentences, and where everything is."""
    verdict = findings.verdict
    others = {"iou_salt": "iou_salt", "empty_correct": "empty"}
    title = f"{verdict.arms[0].runs[0].metrics.get('dataset')}, {len(verdict.images)} images"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for column in ("runs", "at", verdict.metric, "95% interval", "at best", *others.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for row in findings.summary.to_dict("records"):
        table.add_row(
            row["arm"],
            str(row["runs"]),
            row["threshold"],
            f"{row['mean']:.3f}",
            f"{row['low']:.3f} … {row['high']:.3f}",
            *("–" if pd.isna(row[key]) else f"{row[key]:.3f}" for key in ("mean_at_best", *others)),
        )
    console.print(table)
    for pair in verdict.pairs[:SHOWN]:
        console.print(pair.sentence, highlight=False, markup=False)
    if len(verdict.pairs) > SHOWN:
        rest = verdict.pairs[SHOWN:]
        console.print(f"… and {len(rest)} more pairs, {sum(p.shown for p in rest)} of them with a difference shown.")
    for note in findings.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"\nreport: {result.path / 'report.html'}")


main = app("compare")(compare)

if __name__ == "__main__":
    main()
