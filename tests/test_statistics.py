"""Verdicts on cases whose truth is known: equal arms, planted differences, simulated ones, small ones by hand."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from saltseg.statistics import Images, Sample, holm, interval, judge


def alone(count: int) -> list[str]:
    return [f"image{k}" for k in range(count)]


def scores_like_iou(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A fifth of the images at 0, a third at 1, the rest between: as field data has it."""
    kind = rng.random(shape)
    return np.where(kind < 0.2, 0.0, np.where(kind > 0.67, 1.0, rng.beta(5, 2, shape)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_arms_differ_by_exactly_nothing(seeds: int) -> None:
    scores = scores_like_iou(np.random.default_rng(0), (seeds, 200))
    arms = [Sample(scores, tuple(range(seeds))), Sample(scores.copy(), tuple(range(seeds)))]
    means, (difference,) = judge(arms, [(0, 1)], Images(alone(200)))
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
    assert means[0] == means[1]
    assert means[0].low < means[0].value < means[0].high


def test_a_planted_difference_is_found_and_its_absence_isnt() -> None:
    rng = np.random.default_rng(1)
    worse = scores_like_iou(rng, (1, 400))
    noise = rng.normal(0, 0.18, (2, 400))
    better, same = worse + 0.05 + noise[:1], worse + noise[1:] - noise[1:].mean()
    arms = [Sample(scores, (k,)) for k, scores in enumerate((worse, better, same))]
    _, (found, none) = judge(arms, [(1, 0), (2, 0)], Images(alone(400)))
    assert found.value == pytest.approx(0.05 + noise[0].mean())
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.001
    assert none.value == pytest.approx(0, abs=1e-12)
    assert none.low < 0 < none.high
    assert none.p > 0.9


def test_the_interval_covers_the_truth_in_about_95_of_100_cases() -> None:
    rng = np.random.default_rng(2)
    truth = scores_like_iou(rng, (1_000_000,)).mean()
    cases = scores_like_iou(rng, (200, 1000))
    found = interval(cases, Images(alone(200), draws=2000).means(cases))
    assert np.mean([e.low <= truth <= e.high for e in found]) == pytest.approx(0.95, abs=0.02)


def test_the_interval_knows_that_images_of_a_group_go_together() -> None:
    rng = np.random.default_rng(3)
    groups = [f"group{k // 5}" for k in range(200)]
    cases = np.repeat(rng.normal(0, 1, (40, 1000)), 5, axis=0) + rng.normal(0, 0.3, (200, 1000))
    grouped, naive = (interval(cases, Images(g, draws=1000).means(cases)) for g in (groups, alone(200)))
    assert np.mean([e.low <= 0 <= e.high for e in grouped]) == pytest.approx(0.94, abs=0.025)
    assert np.mean([e.low <= 0 <= e.high for e in naive]) < 0.75


@pytest.mark.parametrize("between", [0.003, 0.03])
def test_the_interval_of_recipes_knows_the_seeds(between: float) -> None:
    rng = np.random.default_rng(4)
    images = Images(alone(200), draws=1000)
    covered = {3: 0, 1: 0}
    for case in range(250):
        image = scores_like_iou(rng, (1, 200))
        arms = []
        for arm in range(2):
            scores = image + rng.normal(0, between, (3, 1)) + rng.normal(0, 0.13, (3, 200))
            arms.append(Sample(scores, tuple(f"{case} {arm} {k}" for k in range(3))))
        for count in covered:
            taken = [Sample(a.scores[:count], a.trainings[:count]) for a in arms]
            _, (difference,) = judge(taken, [(0, 1)], images)
            covered[count] += difference.low <= 0 <= difference.high
    assert covered[3] / 250 == pytest.approx(0.95, abs=0.03)
    if between > 0.01:  # more than the images' part: the interval of two checkpoints says nothing of what made them
        assert covered[1] / 250 < 0.7


def test_arms_of_the_same_trainings_are_paired_by_seed() -> None:
    """Two thresholds of three trainings that differ a lot, by the same amount each."""
    rng = np.random.default_rng(5)
    scores = rng.random((1, 100)) + np.array([[0.0], [0.3], [0.6]])
    same = [Sample(scores, (0, 1, 2)), Sample(scores[[2, 0, 1]] + 0.01, (2, 0, 1))]
    other = [same[0], Sample(same[1].scores, (3, 4, 5))]
    _, (paired,) = judge(same, [(1, 0)], Images(alone(100)))
    _, (unpaired,) = judge(other, [(1, 0)], Images(alone(100)))
    assert (paired.low, paired.high) == (pytest.approx(0.01), pytest.approx(0.01))
    assert unpaired.high - unpaired.low > 0.3


def test_the_test_is_exact_where_it_can_be() -> None:
    differences = np.array([0.3, 0.1, 0.25, -0.05, 0.2, 0.15])
    expected = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert Images(alone(6)).p_values(differences[:, None])[0] == pytest.approx(expected)
    assert Images(alone(2)).p_values(np.array([[1.0], [2.0]]))[0] == 0.5  # ++ and −− of four


def test_the_test_flips_groups_as_one() -> None:
    differences = np.array([0.3, 0.1, 0.25, -0.05, 0.2, 0.15])
    groups = ["a", "a", "b", "b", "c", "c"]
    sums = np.array([0.4, 0.2, 0.35])
    expected = permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert Images(groups).p_values(differences[:, None])[0] == pytest.approx(expected) == 0.25


def test_the_test_is_uniform_when_there_is_no_difference() -> None:
    differences = np.random.default_rng(6).normal(0, 1, (100, 1000))
    p = Images(alone(100), draws=999).p_values(differences)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)
    assert p.min() >= 1 / 1000


def test_images_without_a_score_count_nowhere() -> None:
    rng = np.random.default_rng(7)
    scores = rng.random((1, 50))
    holes = np.where(np.arange(100) % 2, np.nan, np.repeat(scores, 2, axis=1))
    mean, full = (judge([Sample(s, (0,))], [], Images(alone(s.shape[1])))[0][0] for s in (holes, scores))
    assert mean.value == pytest.approx(full.value)
    assert mean.high - mean.low == pytest.approx(full.high - full.low, rel=0.15)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6, 0.01]) == [1.0, 1.0, 0.03]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
