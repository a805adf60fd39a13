"""Scores worked out by hand, and agreement with torchmetrics and with plain fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional import classification

from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError
from saltseg.metrics import CURVE, SCORES, Counts, SegmentationScores, best_threshold, check_threshold, histograms


def drawn(pattern: str) -> Tensor:
    """1×1×1×W from a drawing: # salt, . none, ? not labelled."""
    return torch.tensor([{"#": 1, ".": 0, "?": IGNORE}[c] for c in pattern], dtype=torch.uint8)[None, None, None]


def counted(predicted: str, truth: str) -> Counts:
    return Counts.of(histograms(drawn(predicted).float(), drawn(truth), [0.5]))


def random_maps(count: int = 24, size: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities, a third of them exactly on a threshold; truths with empty and with partly labelled images."""
    rng = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(count, 1, size, size, generator=rng)
    on = torch.tensor(CURVE)[torch.randint(len(CURVE), probabilities.shape, generator=rng)]
    probabilities = torch.where(torch.rand(probabilities.shape, generator=rng) < 1 / 3, on, probabilities)
    probabilities[::5] *= 0.04  # empty at every threshold
    truths = (torch.rand(probabilities.shape, generator=rng) < 0.4).to(torch.uint8)
    truths[::4] = 0
    truths[1::6, :, :2] = IGNORE
    return probabilities, truths


@pytest.mark.parametrize(
    ("predicted", "truth", "iou", "dice", "ap"),
    [
        ("....", "....", 1, 1, 1),  # both empty
        ("#...", "....", 0, 0, 0),  # exactly one is
        ("....", "...#", 0, 0, 0),
        ("####", "####", 1, 1, 1),
        ("##..", "..##", 0, 0, 0),
        ("##..", ".##.", 1 / 3, 1 / 2, 0),
        ("#...", "##..", 1 / 2, 2 / 3, 0),  # 0.5 is not more than 0.5
        ("###.", "####", 3 / 4, 6 / 7, 0.5),  # more than 0.50 … 0.70, not than 0.75
        ("##.#", "##??", 1, 1, 1),  # what isn't labelled counts on neither side
        ("##..", "#.#?", 1 / 3, 1 / 2, 0),
        ("..##", "..??", 1, 1, 1),
        ("..##", "####", 1 / 2, 2 / 3, 0),
    ],
)
def test_one_image_by_hand(predicted: str, truth: str, iou: float, dice: float, ap: float) -> None:
    counts = counted(predicted, truth)
    assert [counts.iou.item(), counts.dice.item(), counts.ap.item()] == pytest.approx([iou, dice, ap], abs=1e-15)


def test_several_images_by_hand() -> None:
    predictions = torch.cat([drawn(p) for p in ("##..", "....", "#...", "####")]).float()
    truths = torch.cat([drawn(t) for t in (".##.", "....", "....", "####")])
    summary = Counts.of(histograms(predictions, truths, [0.5])).summary()
    assert {name: value.item() for name, value in summary.items()} == pytest.approx(
        {
            "iou": (1 / 3 + 1 + 0 + 1) / 4,
            "dice": (1 / 2 + 1 + 0 + 1) / 4,
            "map": (0 + 1 + 0 + 1) / 4,
            "micro_iou": 5 / 8,
            "iou_salt": (1 / 3 + 1) / 2,
            "empty_correct": 1 / 2,
            "precision": 5 / 7,
            "recall": 5 / 6,
        }
    )
    assert np.isnan(counted("#...", "....").summary()["iou_salt"]).all()
    assert np.isnan(counted("#...", "##..").summary()["empty_correct"]).all()


@pytest.mark.parametrize("k", range(10, 20))
@pytest.mark.parametrize("unit", [1, 7, 510])
def test_map_is_strict_where_iou_is_exactly_a_threshold(k: int, unit: int) -> None:
    """An iou of k/20 passes the thresholds below it; one pixel more passes it, too."""
    union = 20 * unit
    intersection = np.array([k * unit - 1, k * unit, k * unit + 1])[:, None]
    truth = np.full(3, union)
    ap = Counts(intersection, intersection, truth, truth).ap[:, 0]
    below = sum(20 * (k * unit - 1) > j * union for j in range(10, 20))
    assert (10 * ap).round(12).tolist() == [below, k - 10, k - 9]


@pytest.mark.parametrize("threshold", CURVE)
def test_a_probability_equal_to_the_threshold_is_not_salt(threshold: float) -> None:
    at = torch.tensor(threshold)
    values = torch.stack([torch.nextafter(at, torch.tensor(0.0)), at, torch.nextafter(at, torch.tensor(1.0))])
    histogram = histograms(values[None, None, None], drawn("###"))
    assert Counts.of(histogram).predicted[0, CURVE.index(threshold)] == 1


def test_the_curve_in_one_pass_is_each_threshold_alone() -> None:
    probabilities, truths = random_maps()
    together = Counts.of(histograms(probabilities, truths))
    summary = together.summary()
    labelled, salt = truths != IGNORE, truths == 1
    assert together.pixels.tolist() == labelled.sum((1, 2, 3)).tolist()
    for k, threshold in enumerate(CURVE):
        alone = Counts.of(histograms(probabilities, truths, [threshold]))
        predicted = (probabilities > threshold) & labelled
        assert alone.predicted[:, 0].tolist() == predicted.sum((1, 2, 3)).tolist()
        assert alone.intersection[:, 0].tolist() == (predicted & salt).sum((1, 2, 3)).tolist()
        for name, value in alone.summary().items():
            assert value.item() == together.at(k).summary()[name].item() == summary[name][k], (name, threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.55])
def test_agreement_with_torchmetrics(threshold: float) -> None:
    probabilities, truths = random_maps()
    counts = Counts.of(histograms(probabilities, truths, [threshold]))
    summary, target = counts.summary(), truths.int()
    for name, theirs in (
        ("micro_iou", classification.binary_jaccard_index),
        ("precision", classification.binary_precision),
        ("recall", classification.binary_recall),
    ):
        expected = theirs(probabilities, target, threshold=threshold, ignore_index=IGNORE)
        assert summary[name].item() == pytest.approx(expected.item(), abs=1e-6)
    dice = classification.binary_f1_score(
        probabilities, target, threshold=threshold, multidim_average="samplewise", ignore_index=IGNORE, zero_division=1
    )
    np.testing.assert_allclose(counts.dice[:, 0], dice, atol=1e-6)


def test_agreement_with_kaggles_definition_in_fractions() -> None:
    """Precision is TP / (TP + FP + FN) over at most one object on each side, averaged over the ten thresholds."""

    def kaggle(predicted: set[int], truth: set[int]) -> float:
        if not truth:
            return float(not predicted)
        iou = Fraction(len(predicted & truth), len(predicted | truth))
        return sum(iou > Fraction(k, 20) for k in range(10, 20)) / 10

    rng = np.random.default_rng(0)
    for _ in range(300):
        truth = set(rng.choice(20, rng.integers(0, 21), replace=False).tolist())
        flips = set(rng.choice(20, rng.integers(0, 8), replace=False).tolist())
        predicted = truth ^ flips
        p, t = ("".join("#" if k in s else "." for k in range(20)) for s in (predicted, truth))
        assert counted(p, t).ap.item() == pytest.approx(kaggle(predicted, truth), abs=1e-15)


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [5, 19], [8, 8, 8], [23, 1]])
def test_scores_do_not_depend_on_batches(sizes: list[int]) -> None:
    probabilities, truths = random_maps()
    metric = SegmentationScores(threshold=0.35)
    for batch in zip(probabilities.split(sizes), truths.split(sizes), strict=True):
        metric.update(*batch)
    summary = Counts.of(histograms(probabilities, truths)).summary()
    assert {k: v.item() for k, v in metric.compute().items()} == {
        name: torch.tensor(summary[name][CURVE.index(0.35)], dtype=torch.float32).item() for name in SCORES
    }


def test_metric_starts_anew_after_a_reset() -> None:
    metric = SegmentationScores()
    metric.update(drawn("####").float(), drawn("...."))
    assert metric.compute()["iou"] == 0
    metric.reset()
    metric.update(drawn("####").float(), drawn("####"))
    assert metric.compute()["iou"] == 1


@pytest.mark.parametrize(
    ("highest", "best"),
    [((0.3,), 0.3), ((0.1, 0.95), 0.1), ((0.3, 0.6), 0.6), ((0.4, 0.5, 0.9), 0.5), (CURVE, 0.5)],
)
def test_best_threshold_of_ties_is_the_nearest_to_a_half(highest: tuple[float, ...], best: float) -> None:
    iou = np.array([0.8 if t in highest else 0.7 for t in CURVE])
    assert best_threshold(iou) == best


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_threshold_lies_between_0_and_1(threshold: float) -> None:
    with pytest.raises(SaltsegError, match="between 0 and 1"):
        check_threshold(threshold)
