"""The charts of a report, by Plotly: they answer to the pointer, and take their colours from the page around them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from plotly.graph_objects import Figure, Scatter

from saltseg.calibration import reliability
from saltseg.comparison.delineation import Delineation, ThresholdCurve
from saltseg.comparison.verdict import TITLES, Pair, Verdict, p_text
from saltseg.metrics import CURVE, Floats

#: Told apart by colour-blind readers, on white and on black; Okabe & Ito, https://jfly.uni-koeln.de/color.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_CONFIG = {"displayModeBar": False, "responsive": True}


def html(figure: Figure, name: str) -> str:
    """A ``<div>`` named ``name`` and the script that draws into it; Plotly itself must be on the page."""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG, div_id=name))


def means(verdict: Verdict) -> Figure:
    """Each arm's mean with its interval."""
    rows = [(arm.name, mean.value, mean.low, mean.high) for arm, mean in zip(verdict.arms, verdict.means, strict=True)]
    table = pd.DataFrame(rows, columns=["name", "value", "low", "high"])
    hover = "%{y}<br>%{x:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]<extra></extra>"
    figure = _forest(table, COLOURS[0], hover)
    return figure.update_xaxes(title_text=f"mean {TITLES[verdict.metric]}")


def differences(pairs: Sequence[Pair], metric: str) -> Figure:
    """Each pair's difference with its interval; those that are shown stand out."""
    figure = Figure()
    for shown, colour in ((True, COLOURS[1]), (False, COLOURS[0])):
        chosen = [pair for pair in pairs if pair.shown is shown]
        rows = [
            (_name(pair), pair.difference.value, pair.difference.low, pair.difference.high, p_text(pair.p))
            for pair in chosen
        ]
        table = pd.DataFrame(rows, columns=["name", "value", "low", "high", "p"])
        hover = "%{y}<br>%{x:+.4f} [%{customdata[0]:+.4f}, %{customdata[1]:+.4f}]<br>%{customdata[2]}<extra></extra>"
        part = _forest(table, colour, hover, "a difference" if shown else "no difference shown")
        figure.add_traces(part.data)
    figure.update_yaxes(categoryorder="array", categoryarray=[_name(pair) for pair in pairs][::-1])
    figure.update_xaxes(
        title_text=f"difference in {TITLES[metric]}", rangemode="tozero", zeroline=True, zerolinewidth=2
    )
    return _styled(figure, height=110 + 42 * len(pairs), legend=any(p.shown for p in pairs))


def thresholds(curves: Mapping[str, ThresholdCurve]) -> Figure:
    """Validation IoU against the threshold, with bands; arms of one curve are drawn once."""
    figure = Figure()
    for k, (name, curve) in enumerate(_distinct(curves).items()):
        colour = COLOURS[k % len(COLOURS)]
        _band(figure, name, colour, np.array(CURVE), curve.low, curve.high)
        text = "%{fullData.name}<br>threshold %{x:.2f}: %{y:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]"
        figure.add_scatter(
            x=list(CURVE),
            y=curve.iou,
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line={"color": colour},
            customdata=np.column_stack([curve.low, curve.high]),
            hovertemplate=f"{text}<extra></extra>",
        )
    figure.update_xaxes(title="threshold", range=[0, 1]).update_yaxes(title="IoU on validation, 95% band")
    return _styled(figure, height=420)


def calibration(found: Mapping[str, Delineation], band: bool) -> Figure:
    """Share of salt against probability: on the diagonal, a probability is what it says."""
    figure = Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888", "dash": "dash"}, hoverinfo="skip", showlegend=False
    )
    for k, (name, one) in enumerate(found.items()):
        table = reliability(one.band if band else one.everywhere)
        text = "%{fullData.name}<br>called %{x:.1%}, salt %{y:.1%}<br>%{customdata:,} pixels"
        figure.add_scatter(
            x=table["confidence"],
            y=table["salt"],
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[k % len(COLOURS)]},
            customdata=table["pixels"],
            hovertemplate=f"{text}<extra></extra>",
        )
    figure.update_xaxes(title="probability", range=[0, 1], tickformat=".0%")
    figure.update_yaxes(title="share of salt", range=[0, 1], tickformat=".0%")
    return _styled(figure, height=420)


def classes(table: pd.DataFrame, title: str, metric: str) -> Figure:
    """The mean of each arm in each class of images; a row per class and arm."""
    figure = Figure()
    for k, (name, rows) in enumerate(table.groupby("arm", sort=False)):
        text = "%{fullData.name}<br>%{x}: %{y:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]"
        figure.add_bar(
            x=rows["class"],
            y=rows["mean"],
            name=str(name),
            marker={"color": COLOURS[k % len(COLOURS)]},
            error_y={**_error(rows["mean"], rows["low"], rows["high"]), "thickness": 1.2, "width": 3},
            customdata=rows[["low", "high", "images"]],
            hovertemplate=f"{text}<br>%{{customdata[2]}} images<extra></extra>",
        )
    figure.update_xaxes(title=title, type="category").update_yaxes(title=f"mean {TITLES[metric]}")
    return _styled(figure, height=380)


def against(scores: pd.DataFrame, first: str, second: str) -> Figure:
    """Each image's score by two arms; off the diagonal they disagree."""
    figure = Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888", "dash": "dash"}, hoverinfo="skip", showlegend=False
    )
    figure.add_scatter(
        x=scores[second],
        y=scores[first],
        mode="markers",
        marker={"color": COLOURS[0], "opacity": 0.55, "size": 8},
        customdata=scores.index,
        hovertemplate="%{customdata}<br>%{y:.3f} against %{x:.3f}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title=second, range=[-0.03, 1.03]).update_yaxes(title=first, range=[-0.03, 1.03])
    return _styled(figure, height=480)


def _name(pair: Pair) -> str:
    """In two lines, for a phone's sake."""
    return f"{pair.first.name}<br>− {pair.second.name}"


def _forest(table: pd.DataFrame, colour: str, hover: str, name: str = "") -> Figure:
    """Points with intervals, one line each, the first on top."""
    figure = Figure(
        Scatter(
            x=table["value"],
            y=table["name"],
            name=name,
            mode="markers",
            marker={"color": colour, "size": 10},
            error_x={**_error(table["value"], table["low"], table["high"]), "color": colour, "thickness": 2},
            customdata=table.drop(columns=["name", "value"]),
            hovertemplate=hover,
        )
    )
    figure.update_yaxes(categoryorder="array", categoryarray=list(table["name"])[::-1])
    return _styled(figure, height=110 + 30 * len(table), legend=False)


def _band(figure: Figure, name: str, colour: str, x: Floats, low: Floats, high: Floats) -> None:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
    )


def _distinct(curves: Mapping[str, ThresholdCurve]) -> dict[str, ThresholdCurve]:
    """Arms that differ only in their threshold have one curve."""
    names: dict[bytes, list[str]] = {}
    for name, curve in curves.items():
        names.setdefault(curve.iou.tobytes(), []).append(name)
    return {n[0] if len(n) == 1 else f"{n[0]} and {len(n) - 1} more": curves[n[0]] for n in names.values()}


def _error(value: "pd.Series[float]", low: "pd.Series[float]", high: "pd.Series[float]") -> dict[str, object]:
    return {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low}


def _styled(figure: Figure, height: int, legend: bool = True) -> Figure:
    """No background and no dragging: the page's colours show through, and a finger scrolls."""
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 16, "t": 16, "b": 10},
        font={"family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"bgcolor": "#222", "bordercolor": "#222", "font": {"color": "#fff"}},
        showlegend=legend,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        dragmode=False,
        hovermode="closest",
    )
    return figure.update_xaxes(automargin=True, title_font_size=13).update_yaxes(automargin=True, title_font_size=13)
