"""From probabilities of the held-out images to a run's tables: thresholds, predictions, scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from saltseg.calibration import expected_calibration_error, fit_temperature, pooled, temper
from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import IGNORE, Array8, Images
from saltseg.inference import Predictor
from saltseg.metrics import CURVE, SCORES, Counts, best_threshold, histograms
from saltseg.pictures import figures, plots
from saltseg.retention import curves, flat, retention, subsets
from saltseg.run import Run
from saltseg.uncertainty import boundary_length, disagreement, uncertainty

HELD_OUT = ("val", "test")
NAMES = {"val": "validation", "test": "test"}
Maps = Sequence[NDArray[np.float32]]


def count(maps: Maps, masks: Sequence[Array8], thresholds: Sequence[float] = CURVE) -> NDArray[np.int64]:
    """N×2×(K+1) pixel counts of N maps and masks, see :func:`~saltseg.metrics.histograms`."""
    each = [
        histograms(torch.from_numpy(p)[None, None], torch.from_numpy(m)[None, None], thresholds)
        for p, m in zip(maps, masks, strict=True)
    ]
    return torch.cat(each).numpy() if each else np.empty((0, 2, len(thresholds) + 1), np.int64)


@dataclass(frozen=True)
class Part:
    """One held-out part with what was predicted on it.

    Attributes:
        images: N.
        maps: N of probabilities.
        histogram: N×2×20 pixel counts.
        member_entropy: N maps of the mean entropy of three or more networks in bits; empty for fewer of them.
    """

    images: Images
    maps: Maps
    histogram: NDArray[np.int64]
    member_entropy: Maps = ()

    @classmethod
    def of(cls, images: Images, maps: Maps, member_entropy: Maps = ()) -> "Part":
        return cls(images, maps, count(maps, images.masks), member_entropy)

    @classmethod
    def predicted(cls, images: Images, predictor: Predictor) -> "Part":
        """What the predictor makes of the images."""
        found = predictor.predict(images.images)
        entropy = [p.member_entropy for p in found if p.member_entropy is not None]
        return cls.of(images, [p.probability for p in found], entropy)

    def pooled(self, temperature: float | None = None) -> NDArray[np.int64]:
        """The calibration histogram of all labelled pixels, see :mod:`saltseg.calibration`; tempered or as they are."""
        maps = self.maps if temperature is None else (temper(m, temperature) for m in self.maps)
        return pooled(maps, self.images.masks)

    def at(self, threshold: float) -> Counts:
        """The counts at any one threshold, N×1."""
        if threshold in CURVE:
            return Counts.of(self.histogram).at(CURVE.index(threshold))
        return Counts.of(count(self.maps, self.images.masks, [threshold]))


def curve(part: Part) -> pd.DataFrame:
    """The content of ``thresholds.csv``."""
    columns = ("iou", "dice", "map", "micro_iou", "precision", "recall")
    summary = Counts.of(part.histogram).summary()
    return pd.DataFrame({"threshold": CURVE, **{c: summary[c] for c in columns}})


def scores(parts: Mapping[str, Part], threshold: float) -> dict[str, Any]:
    """The flat scores: ``val/…``, ``test/…``, ``heldout/…`` at ``threshold``, ``…_best/…`` at the best one of ``val``.

    Where labels are suspect, ``…_trusted/…`` has the same at ``threshold`` without those images.
    """
    result: dict[str, Any] = {"threshold": threshold}
    if "val" in parts:
        result["threshold_best"] = best_threshold(Counts.of(parts["val"].histogram).summary()["iou"])
    for suffix, at in (("", threshold), ("_best", result.get("threshold_best"))):
        if at is None:
            continue
        counts = {name: part.at(at) for name, part in parts.items()}
        if len(parts) > 1:
            counts["heldout"] = _joined(list(counts.values()))
        for name, counted in counts.items():
            result |= _flat(f"{name}{suffix}", counted)
    if any(part.images.suspect.any() for part in parts.values()):
        trusted = {name: _where(part.at(threshold), ~part.images.suspect) for name, part in parts.items()}
        if len(parts) > 1:
            trusted["heldout"] = _joined(list(trusted.values()))
        for name, counted in trusted.items():
            result |= _flat(f"{name}_trusted", counted)
    return result


def calibration(parts: Mapping[str, Part], temperature: float | None) -> dict[str, float]:
    """What is known of the probabilities, flat: ``temperature``, and ``val/ece``, ``val/ece_tempered`` and so on."""
    result = {} if temperature is None else {"temperature": temperature}
    for name, part in parts.items():
        result[f"{name}/ece"] = expected_calibration_error(part.pooled())
        if temperature is not None:
            result[f"{name}/ece_tempered"] = expected_calibration_error(part.pooled(temperature))
    return result


def predictions(
    parts: Mapping[str, Part], threshold: float, folds: Mapping[str, int], temperature: float = 1.0
) -> pd.DataFrame:
    """The content of ``predictions.csv``: a row per held-out image, ``salt`` and ``predicted`` as shares of it.

    ``uncertainty`` is the Dice that the image expects to miss, ``boundary`` the length of the predicted boundary in
    pixels; of three or more networks, ``disagreement`` is their mutual information in bits, the mean over the pixels.
    """
    tables = []
    for name, part in parts.items():
        counted, images = part.at(threshold), part.images
        tables.append(
            pd.DataFrame(
                {
                    "id": images.ids,
                    "split": name,
                    "fold": [folds.get(i, -1) for i in images.ids],
                    "group": images.group,
                    "iou": counted.iou[:, 0],
                    "dice": counted.dice[:, 0],
                    "ap": counted.ap[:, 0],
                    "salt": counted.truth / np.maximum(counted.pixels, 1),
                    "predicted": counted.predicted[:, 0] / np.maximum(counted.pixels, 1),
                    "depth": images.depth,
                    "suspect": images.suspect,
                    "uncertainty": [uncertainty(m, threshold, temperature) for m in part.maps],
                    "boundary": [boundary_length(m > threshold) for m in part.maps],
                    **_disagreement(part),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def arrays(parts: Mapping[str, Part]) -> dict[str, NDArray[Any]]:
    """The content of ``scores.npz``: what a comparison needs without the weights.

    ``id``, ``split`` (N); ``thresholds`` (19); ``intersection``, ``predicted`` (N×19); ``truth``, ``pixels`` (N);
    ``calibration`` (N×2×20): pixels by truth and probability in steps of 0.05; ``height``, ``width`` (N);
    ``probability``: all pixels of all images in a row, uint8, 255 = 1; ``salt``, ``labelled``: of the same pixels, in
    bits (``numpy.packbits``), the truth and whether there is one.
    """
    histogram = np.concatenate([p.histogram for p in parts.values()])
    counted = Counts.of(histogram)
    maps = [m for p in parts.values() for m in p.maps]
    masks = np.concatenate([m.ravel() for p in parts.values() for m in p.images.masks])
    return {
        "id": np.array([i for p in parts.values() for i in p.images.ids]),
        "split": np.array([name for name, p in parts.items() for _ in p.images.ids]),
        "thresholds": np.array(CURVE),
        "intersection": counted.intersection,
        "predicted": counted.predicted,
        "truth": counted.truth,
        "pixels": counted.pixels,
        "calibration": histogram,
        "height": np.array([m.shape[0] for m in maps]),
        "width": np.array([m.shape[1] for m in maps]),
        "probability": np.concatenate([np.round(m * 255).astype(np.uint8).ravel() for m in maps]),
        "salt": np.packbits(masks == 1),
        "labelled": np.packbits(masks != IGNORE),
    }


def score_run(
    run: Run,
    data: SaltDataModule,
    predictor: Predictor,
    threshold: float | None,
    names: Sequence[str] = HELD_OUT,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Predict the held-out parts and write what they give: tables, arrays and pictures of ``run``.

    Args:
        run: where to.
        data: whose held-out images are scored.
        predictor: from images to probabilities.
        threshold: a pixel is salt above it; None: the best one of ``val``.
        names: which parts; the first with images gives ``thresholds.csv``, the last the pictures.
        temperature: of the probabilities where ``val``, on which it is fitted, isn't scored; None: it isn't known.

    Returns:
        The flat scores, see :func:`scores`, which no temperature touches; and what is known of the probabilities.
    """
    held_out = {name: data.part(name) for name in names}
    parts = {name: Part.predicted(images, predictor) for name, images in held_out.items() if len(images)}
    if threshold is None:
        threshold = best_threshold(Counts.of(parts["val"].histogram).summary()["iou"])
    result = scores(parts, threshold)
    folds = {i: int(f) for i, f in zip(data.images.ids, data.division.fold, strict=True)}
    if "val" in parts:
        temperature = fit_temperature(parts["val"].maps, parts["val"].images.masks)
    first, last = next(iter(parts.values())), list(parts.values())[-1]
    thresholds, table = curve(first), predictions(parts, threshold, folds, temperature or 1.0)
    retained = retention(table)
    run.write_table(run.path / "thresholds.csv", thresholds)
    run.write_table(run.path / "predictions.csv", table)
    run.write_table(run.path / "uncertainty.csv", retained)
    run.write_arrays(run.path / "scores.npz", **arrays(parts))
    best = result.get("threshold_best", threshold)
    plots.thresholds(thresholds, run.figures / "thresholds.png", threshold, best)
    draw_predictions(last, threshold, run.figures / "predictions.png")
    draw_confidence(list(parts)[-1], last, temperature, table, run.figures)
    return {**result, **calibration(parts, temperature), **flat(retained)}


def draw_confidence(name: str, part: Part, temperature: float | None, table: pd.DataFrame, folder: Path) -> None:
    """Whether probabilities are what they say, before and after the temperature; and what the uncertainty is worth."""
    shown = f"{len(part.images)} {NAMES[name]} images"
    after = None if temperature is None else part.pooled(temperature)
    plots.reliability(part.pooled(), after, temperature, shown, folder / "reliability.png")
    kept = {
        f"{len(rows)} {NAMES[name]} images{'' if kind == 'all' else f' {kind}'}": curves(rows)
        for (of, kind), rows in subsets(table).items()
        if of == name
    }
    plots.retention(kept, folder / "uncertainty.png")


def draw_predictions(part: Part, threshold: float, path: Path, count: int = 24) -> None:
    """Images from the worst to the best, evenly over the ranking."""
    iou = part.at(threshold).iou[:, 0]
    ranked = np.argsort(iou, kind="stable")
    picked = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))]
    figures.predictions(
        [part.images.images[k] for k in picked],
        [part.images.masks[k] for k in picked],
        [part.maps[k] for k in picked],
        [f"{part.images.ids[k]}\nIoU {iou[k]:.2f}" for k in picked],
        path,
        threshold,
    )


def _disagreement(part: Part) -> dict[str, list[float]]:
    pairs = zip(part.maps, part.member_entropy, strict=True) if part.member_entropy else ()
    found = [float(disagreement(mean, entropy).mean()) for mean, entropy in pairs]
    return {"disagreement": found} if found else {}


def split_table(data: SaltDataModule) -> pd.DataFrame:
    """The content of ``split.csv``."""
    division = data.division
    table = pd.DataFrame({"id": data.images.ids, "split": division.part, "fold": division.fold})
    return table if (division.fold >= 0).any() else table.drop(columns="fold")


def _flat(prefix: str, counted: Counts) -> dict[str, float]:
    summary = counted.summary()
    return {f"{prefix}/{name}": float(summary[name][0]) for name in SCORES}


def _joined(counts: list[Counts]) -> Counts:
    fields = ("intersection", "predicted", "truth", "pixels")
    return Counts(*(np.concatenate([getattr(c, f) for c in counts]) for f in fields))


def _where(counted: Counts, keep: NDArray[np.bool_]) -> Counts:
    return Counts(counted.intersection[keep], counted.predicted[keep], counted.truth[keep], counted.pixels[keep])
