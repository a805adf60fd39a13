"""The tables and arrays of a run say the same as its scores, and what the contract says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small import Small, make_images, small_net

from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError
from saltseg.inference import Predictor
from saltseg.metrics import CURVE, SCORES, best_threshold
from saltseg.module import SaltNet
from saltseg.run import Run
from saltseg.scoring import Part, arrays, predictions, score_run, scores, split_table
from saltseg.uncertainty import mutual_information

SHAPES = [(101, 101), (40, 60), (32, 32), (50, 33)] * 7
HELD_OUT = ("val", "test")


def make_parts(suspect: tuple[int, ...] = (), names: tuple[str, ...] = HELD_OUT) -> dict[str, Part]:
    """Maps that follow the truth, with noise."""
    data = Small(make_images(SHAPES, ignore=True, suspect=suspect), val=10, test=8)
    rng = np.random.default_rng(0)
    parts = {}
    for name in names:
        images = data.part(name)
        truth = [np.where(m == 1, 0.65, 0.35) for m in images.masks]
        maps = [np.clip(t + 0.2 * rng.normal(size=t.shape), 0, 1).astype(np.float32) for t in truth]
        parts[name] = Part.of(images, maps)
    return parts


def iou_by_hand(part: Part, threshold: float) -> list[float]:
    values = []
    for probability, mask in zip(part.maps, part.images.masks, strict=True):
        predicted, true = (probability > threshold) & (mask != IGNORE), mask == 1
        union = (predicted | true).sum()
        values.append(float((predicted & true).sum() / union) if union else 1.0)
    return values


@pytest.mark.parametrize("threshold", [0.5, 0.35, 0.423])
def test_scores_are_means_over_images(threshold: float) -> None:
    parts = make_parts()
    result = scores(parts, threshold)
    val, test = (iou_by_hand(parts[name], threshold) for name in HELD_OUT)
    assert result["val/iou"] == pytest.approx(np.mean(val))
    assert result["test/iou"] == pytest.approx(np.mean(test))
    assert result["heldout/iou"] == pytest.approx(np.mean(val + test))  # over the images of both, not of two means
    best = result["threshold_best"]
    assert result["val_best/iou"] == pytest.approx(max(np.mean(iou_by_hand(parts["val"], t)) for t in CURVE))
    assert result["test_best/iou"] == pytest.approx(np.mean(iou_by_hand(parts["test"], best)))


def test_the_keys_of_the_scores() -> None:
    prefixes = [f"{part}{suffix}" for suffix in ("", "_best") for part in (*HELD_OUT, "heldout")]
    expected = {"threshold", "threshold_best"} | {f"{p}/{s}" for p in prefixes for s in SCORES}
    assert SCORES == ("iou", "dice", "map", "micro_iou", "iou_salt", "empty_correct")
    assert set(scores(make_parts(), 0.5)) == expected
    assert set(scores(make_parts(names=("val",)), 0.5)) == {k for k in expected if k[:4] not in ("test", "held")}
    assert set(scores(make_parts(names=("test",)), 0.5)) == {"threshold"} | {f"test/{s}" for s in SCORES}


def test_trusted_scores_leave_the_suspects_out() -> None:
    parts = make_parts(suspect=tuple(range(0, 28, 2)))
    result = scores(parts, 0.5)
    trusted = []
    for name in HELD_OUT:
        kept = np.array(iou_by_hand(parts[name], 0.5))[~parts[name].images.suspect]
        assert 0 < len(kept) < len(parts[name].images)
        assert result[f"{name}_trusted/iou"] == pytest.approx(kept.mean())
        trusted += kept.tolist()
    assert result["heldout_trusted/iou"] == pytest.approx(np.mean(trusted))
    without = scores(make_parts(), 0.5)
    assert {k: v for k, v in result.items() if "_trusted" not in k} == without


def test_predictions_have_the_contracts_columns_and_a_row_an_image() -> None:
    parts = make_parts(suspect=(1, 5, 20))
    table = predictions(parts, 0.5, {"tile003": 7})
    assert list(table.columns) == [
        "id", "split", "fold", "group", "iou", "dice", "ap", "salt", "predicted", "depth", "suspect",
        "uncertainty", "boundary",
    ]  # fmt: skip
    assert table["id"].tolist() == [i for name in HELD_OUT for i in parts[name].images.ids]
    assert table["split"].value_counts().to_dict() == {"val": 10, "test": 8}
    assert table["iou"].tolist() == pytest.approx([v for name in HELD_OUT for v in iou_by_hand(parts[name], 0.5)])
    assert table["salt"].tolist() == pytest.approx([c for name in HELD_OUT for c in parts[name].images.coverage])
    assert (table["depth"] == 100 + table["id"].str[4:].astype(int)).all()
    assert set(table.loc[table["suspect"], "id"]) <= {"tile001", "tile005", "tile020"}
    assert set(table.loc[table["id"] != "tile003", "fold"]) == {-1}
    result = scores(parts, 0.5)
    assert table["uncertainty"].between(0, 1).all()
    for column, score in (("iou", "iou"), ("dice", "dice"), ("ap", "map")):
        for name in HELD_OUT:
            assert table.loc[table["split"] == name, column].mean() == pytest.approx(result[f"{name}/{score}"])


def test_arrays_give_the_scores_back_without_the_weights() -> None:
    parts = make_parts()
    kept = arrays(parts)
    union = kept["predicted"] + kept["truth"][:, None] - kept["intersection"]
    iou = np.where(union == 0, 1, kept["intersection"] / np.maximum(union, 1))
    for k, threshold in enumerate(kept["thresholds"]):
        expected = [v for name in HELD_OUT for v in iou_by_hand(parts[name], threshold)]
        np.testing.assert_allclose(iou[:, k], expected, atol=1e-12)
    assert kept["thresholds"].tolist() == list(CURVE)
    assert kept["split"].tolist() == ["val"] * 10 + ["test"] * 8
    # Each image's own pixels: those that count in its histogram, all of them in the row of probabilities.
    assert np.array_equal(kept["calibration"].sum((1, 2)), kept["pixels"])
    ends = np.cumsum(kept["height"] * kept["width"])
    assert ends[-1] == len(kept["probability"])
    maps = [m for name in HELD_OUT for m in parts[name].maps]
    for stored, one in zip(np.split(kept["probability"], ends[:-1]), maps, strict=True):
        assert stored.dtype == np.uint8
        assert np.abs(stored.reshape(one.shape) / 255 - one).max() <= 0.5 / 255 + 1e-6
    masks = np.concatenate([m.ravel() for name in HELD_OUT for m in parts[name].images.masks])
    salt, labelled = (np.unpackbits(kept[name], count=len(masks)) for name in ("salt", "labelled"))
    assert np.array_equal(np.where(labelled, salt, IGNORE), masks)
    assert not salt[labelled == 0].any()


@pytest.mark.parametrize("options", [{}, {"folds": 3, "fold": 1}])
def test_split_table(options: dict[str, Any]) -> None:
    data = Small(make_images(SHAPES), val=10, test=8, **options)
    table = split_table(data)
    assert list(table.columns) == ["id", "split", *(["fold"] if options else [])]
    assert table["id"].tolist() == list(data.images.ids)
    if options:
        assert ((table["fold"] == 1) == (table["split"] == "val")).all()
        assert ((table["fold"] == -1) == (table["split"] == "test")).all()


@pytest.mark.parametrize("options", [{}, {"folds": 3, "fold": 1}])
def test_a_division_is_taken_from_its_table(options: dict[str, Any]) -> None:
    images = make_images(SHAPES)
    first = Small(images, val=10, test=8, **options)
    second = Small(images, val=4, test=3)
    second.divide_as(split_table(first).sample(frac=1, random_state=0))  # whatever the order of its rows
    assert (second.division.part == first.division.part).all()
    assert (second.division.fold == first.division.fold).all()
    with pytest.raises(SaltsegError, match="not the same"):
        second.divide_as(split_table(first).iloc[1:])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    run = Run.begin(tmp_path_factory.mktemp("run"))
    data = Small(make_images(SHAPES), val=10, test=8)
    return run, score_run(run, data, Predictor([SaltNet(small_net(3))]), threshold=None)


def test_what_a_scored_run_leaves(scored: tuple[Run, dict[str, Any]]) -> None:
    run, result = scored
    curve = pd.read_csv(run.path / "thresholds.csv")
    assert list(curve.columns) == ["threshold", "iou", "dice", "map", "micro_iou", "precision", "recall"]
    assert curve["threshold"].tolist() == list(CURVE)
    assert result["threshold"] == result["threshold_best"] == best_threshold(curve["iou"].to_numpy())
    assert result["val/iou"] == curve["iou"].max()  # to the bit: the curve is what each threshold alone gives
    assert len(pd.read_csv(run.path / "predictions.csv")) == 18
    with np.load(run.path / "scores.npz") as kept:
        assert len(kept["id"]) == 18
    assert {f.name for f in run.figures.iterdir()} == {
        f"{name}.png" for name in ("thresholds", "predictions", "reliability", "uncertainty")
    }
    assert not list(run.path.rglob("*partial*"))


@pytest.mark.parametrize("saturated", [False, True])
def test_no_temperature_moves_a_score(saturated: bool, tmp_path: Path) -> None:
    data = Small(make_images(SHAPES, ignore=True), val=10, test=8)
    predictor = Predictor([SaltNet(small_net(3, times=1000 if saturated else 4))])
    parts = {name: Part.predicted(data.part(name), predictor) for name in HELD_OUT}
    given = np.concatenate([m.ravel() for m in parts["val"].maps])
    assert ((given == 0) | (given == 1)).mean() > 0.8 or not saturated
    both = score_run(Run.begin(tmp_path / "both"), data, predictor, 0.3)
    assert both["temperature"] != 1
    assert {k: v for k, v in both.items() if k in scores(parts, 0.3)} == scores(parts, 0.3)
    tempered = predictions(parts, 0.3, {}, temperature=both["temperature"])
    untempered = predictions(parts, 0.3, {})
    pd.testing.assert_frame_equal(tempered.drop(columns="uncertainty"), untempered.drop(columns="uncertainty"))
    assert np.isfinite(list(both.values())).all()

    # Without validation, the temperature is what is said, or not known.
    for temperature in (both["temperature"], None):
        run = Run.begin(tmp_path / f"test{temperature}")
        alone = score_run(run, data, predictor, 0.3, ("test",), temperature)
        kept = {k: v for k, v in both.items() if k.startswith("test/")}
        if temperature is None:
            assert "temperature" not in alone
            assert alone["test/ece"] == both["test/ece"]
            assert "test/ece_tempered" not in alone
        else:
            assert {k: v for k, v in alone.items() if "/" in k} == kept
        assert (run.figures / "reliability.png").is_file()


def test_what_networks_disagree_about_is_told_from_three_of_them_on() -> None:
    images = make_images(SHAPES)
    nets = [SaltNet(small_net(seed)) for seed in range(3)]
    three, two = (predictions({"val": Part.predicted(images, Predictor(n))}, 0.5, {}) for n in (nets, nets[:2]))
    assert "disagreement" not in two
    assert three["disagreement"].between(0.001, 1).all()
    members = np.stack([Predictor([net], tta="none")(images.images)[2] for net in nets])
    assert three["disagreement"][2] == pytest.approx(mutual_information(members).mean(), abs=1e-5)
    alike = predictions({"val": Part.predicted(images, Predictor([nets[0]] * 3))}, 0.5, {})
    assert alike["disagreement"].max() < 1e-5
