"""``report.html``: one file that needs no network, for the screen, the phone and the printer."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from saltseg.comparison import charts
from saltseg.comparison.arms import Arm, different, recipe
from saltseg.comparison.delineation import Delineation, ThresholdCurve
from saltseg.comparison.surfaces import PICKING, Truth
from saltseg.comparison.verdict import ALPHA, TITLES, Verdict, coverage_classes, depth_classes, p_text, signed
from saltseg.data.images import Images
from saltseg.pictures import figures
from saltseg.statistics import DRAWS

#: Images that are drawn, with salt and without, and listed, of those on which the arms disagree most.
DRAWN, DRAWN_EMPTY, LISTED = 8, 4, 100
#: Pairs that are charted.
CHARTED = 40


@dataclass(frozen=True)
class Findings:
    """All that a report tells.

    Attributes:
        verdict: who is better.
        summary: the rows of ``summary.csv``.
        delineations: per arm, by name; None where a run has no arrays, or the truth isn't at hand.
        curves: likewise.
        truths: by image.
        data: the images, where they are.
        notes: what is left out, and why.
    """

    verdict: Verdict
    summary: pd.DataFrame
    delineations: Mapping[str, Delineation] | None
    curves: Mapping[str, ThresholdCurve] | None
    truths: Mapping[str, Truth] | None
    data: Images | None
    notes: Sequence[str]


def report(findings: Findings) -> str:
    """The page."""
    verdict, pairs = findings.verdict, findings.verdict.pairs
    template = _environment().get_template("compare.html")
    return template.render(
        title=f"{pairs[0].first.name} against {pairs[0].second.name}" if len(pairs) == 1 else "Comparison",
        dataset=verdict.arms[0].runs[0].metrics.get("dataset"),
        metric=TITLES[verdict.metric],
        parts=" and ".join(verdict.arms[0].splits),
        folds=verdict.arms[0].runs[0].fold is not None,
        recipes=all(arm.is_recipe for arm in verdict.arms),
        images=len(verdict.images),
        groups=verdict.images["group"].replace("", np.nan).nunique(),
        verdict=verdict,
        summary=findings.summary.to_dict("records"),
        notes=findings.notes,
        charts=_charts(findings),
        disagreements=_disagreements(findings),
        scores=_listed(verdict),
        settings=_settings(verdict.arms),
        delineations=findings.delineations,
        curves=findings.curves,
        picking=PICKING,
        draws=DRAWS,
        alpha=ALPHA,
        plotly=Markup(get_plotlyjs()),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("saltseg.comparison"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value, digits=3: "–" if pd.isna(value) else f"{value:.{digits}f}",
        "percent": lambda value, digits=0: "–" if pd.isna(value) else f"{value:.{digits}%}",
        "signed": signed,
        "p": p_text,
    }
    return environment


def _charts(findings: Findings) -> dict[str, Markup]:
    """Each chart by name, as it goes into the page."""
    verdict = findings.verdict
    drawn = {"means": charts.means(verdict)}
    if verdict.pairs:
        pair = verdict.pairs[0]
        drawn["differences"] = charts.differences(verdict.pairs[:CHARTED], verdict.metric)
        drawn["against"] = charts.against(verdict.scores(), pair.first.name, pair.second.name)
    classes = {"coverage": ("share of salt", coverage_classes), "depth": ("depth", depth_classes)}
    for name, (title, classify) in classes.items():
        labels = classify(verdict.images)
        if labels is not None:
            drawn[name] = charts.classes(verdict.by(labels), title, verdict.metric)
    if findings.curves:
        drawn["thresholds"] = charts.thresholds(findings.curves)
    if findings.delineations:
        drawn["calibration"] = charts.calibration(findings.delineations, band=False)
        drawn["band"] = charts.calibration(findings.delineations, band=True)
    return {name: Markup(charts.html(figure, name)) for name, figure in drawn.items()}


def _spread(verdict: Verdict) -> "pd.Series[float]":
    """How far apart the arms' scores are, where they are; the farthest first, of ties those of most salt predicted."""
    scores = verdict.scores().dropna()
    predicted = np.stack([arm.predicted for arm in verdict.arms])
    apart = pd.DataFrame({"score": scores.max(axis=1) - scores.min(axis=1)})
    apart["predicted"] = pd.Series(np.ptp(predicted, axis=0), index=verdict.images.index)
    apart = apart[apart["score"] > 0].sort_values(["score", "predicted"], ascending=False, kind="stable")
    return apart["score"]


def _disagreements(findings: Findings) -> list[dict[str, Any]]:
    """The images on which the arms disagree most, drawn with the best and the worst of them, first seed each."""
    verdict = findings.verdict
    if len(verdict.arms) < 2 or not all(arm.has_arrays for arm in verdict.arms):
        return []
    spread, scores, data = _spread(verdict), verdict.scores(), findings.data
    salt = verdict.images["salt"].loc[spread.index] > 0
    place = {} if data is None else {name: k for k, name in enumerate(data.ids)}
    drawn = []
    for name in [*spread.index[salt][:DRAWN], *spread.index[~salt][:DRAWN_EMPTY]]:
        better = verdict.arms[int(scores.loc[name].to_numpy().argmax())]
        worse = verdict.arms[int(scores.loc[name].to_numpy().argmin())]
        runs = [arm.of(name)[0] for arm in (better, worse)]
        picture = figures.versus(
            None if data is None else data.images[place[name]],
            None if findings.truths is None else findings.truths[name].salt,
            [run.probability(name) / 255 for run in runs],
            [run.threshold for run in runs],
        )
        drawn.append(
            {
                "id": name,
                "picture": Markup(b64encode(picture).decode()),
                "arms": [(arm.name, scores.loc[name, arm.name]) for arm in (better, worse)],
                "about": verdict.images.loc[name].to_dict(),
            }
        )
    return drawn


def _listed(verdict: Verdict) -> list[dict[str, Any]]:
    """The scores of the images on which the arms disagree most."""
    if len(verdict.arms) < 2:
        return []
    spread, scores, images = _spread(verdict), verdict.scores(), verdict.images
    return [
        {"id": name, "spread": spread[name], "scores": list(scores.loc[name]), "about": images.loc[name].to_dict()}
        for name in map(str, spread.index[:LISTED])
    ]


def _settings(arms: Sequence[Arm]) -> list[tuple[str, list[Any]]]:
    """In which settings the arms differ: key, and a value for each arm."""
    firsts = [arm.runs[0] for arm in arms]
    return [(key, [recipe(run).get(key, "–") for run in firsts]) for key in sorted(different(firsts))]
