"""The median frequency of images, and surveys that are resampled to that of the training images."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from saltseg.data.sampling import (
    Grain,
    check_factors,
    choose_factors,
    frequencies,
    resample,
    resampled_shape,
    survey_frequency,
)
from saltseg.data.synthetic import section
from saltseg.errors import SaltsegError

TILE = (101, 101)
#: As of TGS, but for rounding.
GRAIN = Grain((0.022, 0.046, 0.136), (0.013, 0.034, 0.096))


def wave(shape: tuple[int, int], vertical: float, horizontal: float, seed: int = 0) -> np.ndarray:
    """Noise in a narrow band around these frequencies (cycles per sample and per trace)."""
    rng = np.random.default_rng(seed)
    z, x = np.indices(shape)
    total = np.zeros(shape)
    for _ in range(40):
        fz, fx = vertical * rng.uniform(0.9, 1.1), horizontal * rng.uniform(0.9, 1.1) * rng.choice([-1, 1])
        total += np.cos(2 * np.pi * (fz * z + fx * x) + rng.uniform(0, 2 * np.pi))
    return total.astype(np.float32)


@pytest.mark.parametrize("frequency", [0.05, 0.12, 0.3])
def test_the_median_frequency_of_a_wave_is_its_own(frequency: float) -> None:
    images = np.stack([np.cos(2 * np.pi * frequency * np.arange(200))[:, None] * np.ones(40)] * 3)
    assert frequencies(images, 1)[0] == pytest.approx([frequency] * 3, abs=0.002)
    assert frequencies(images.transpose(0, 2, 1), 2)[0] == pytest.approx([frequency] * 3, abs=0.002)
    assert np.isnan(frequencies(images, 2)).all()  # it doesn't vary across
    assert frequencies(7 * images + 3, 1)[0] == pytest.approx([frequency] * 3, abs=0.002)


def test_white_noise_has_half_its_power_below_half_of_nyquist() -> None:
    images = np.random.default_rng(0).normal(size=(3, 700, 101))
    shares = frequencies(images, 1, (0.1, 0.5, 0.9))
    np.testing.assert_allclose(shares, np.array([[0.05], [0.25], [0.45]]) * np.ones(3), atol=0.01)


def test_grain_is_quantiles_that_travel_in_the_metrics() -> None:
    images = [np.rint(127 * (1 + np.cos(2 * np.pi * f * np.arange(512)[:, None] * np.ones(8)))).astype(np.uint8)
              for f in np.linspace(0.1, 0.2, 101)]  # fmt: skip
    grain = Grain.measure([np.zeros((9, 9), np.uint8), *images])
    assert grain.vertical == pytest.approx((0.105, 0.15, 0.195), abs=0.002)
    few = Grain.measure(images, count=11)
    assert few.vertical == pytest.approx((0.105, 0.15, 0.195), abs=0.002)
    flat = GRAIN.flat()
    assert flat["grain/vertical_05"] == 0.022
    assert flat["grain/horizontal_95"] == 0.096
    assert Grain.of(flat) == GRAIN
    assert Grain.of({"val/iou": 0.5}) is None
    assert Grain.of({**flat, "grain/vertical_50": None}) is None


@pytest.mark.parametrize("factors", [(2.6, 1.0), (0.4, 1.7), (0.25, 0.25), (4.0, 3.1)])
@pytest.mark.parametrize("shape", [(313, 127), (64, 5), (1, 1)])
def test_there_and_back_is_the_same_shape_and_place(shape: tuple[int, int], factors: tuple[float, float]) -> None:
    probability = gaussian_filter(np.random.default_rng(0).random(shape), 12, mode="nearest").astype(np.float32)
    probability = (probability - probability.min()) / max(np.ptp(probability), 1e-6)
    there = resample(probability, resampled_shape(shape, factors), "probability")
    back = resample(there, shape, "probability")
    assert back.shape == shape
    assert back.min() >= 0
    assert back.max() <= 1
    if min(shape) > 100:
        assert np.abs(back - probability).max() < 0.25
        assert np.abs(back - probability)[30:-30, 30:-30].mean() < 0.03
        # Nothing is shifted: the best fit is where it was.
        moved = [np.abs(np.roll(back, k, axis=0) - probability)[30:-30].mean() for k in (-1, 0, 1)]
        assert np.argmin(moved) == 1


def test_what_a_coarser_grid_cannot_hold_is_not_folded_into_it() -> None:
    fine = np.cos(2 * np.pi * 0.4 * np.arange(400, dtype=np.float32))[:, None] * np.ones((1, 50), np.float32)
    coarse = resample(fine, (160, 50), "amplitude")
    assert coarse[10:-10].std() < 0.1 * fine.std()
    kept = np.cos(2 * np.pi * 0.05 * np.arange(400, dtype=np.float32))[:, None] * np.ones((1, 50), np.float32)
    assert resample(kept, (160, 50), "amplitude")[10:-10].std() == pytest.approx(kept.std(), rel=0.1)


@pytest.mark.parametrize(
    ("vertical", "horizontal", "expected"),
    [
        (0.046, 0.034, (1.0, 1.0)),
        (0.052, 0.05, (1.0, 1.0)),  # near enough
        (0.12, 0.034, (2.6, 1.0)),  # 30 Hz at 4 ms
        (0.02, 0.034, (0.43, 1.0)),
        (0.12, 0.12, (2.6, 3.5)),
        (0.3, 0.034, (4.0, 1.0)),  # as far as it goes
    ],
)
def test_auto_brings_a_survey_to_the_median(
    vertical: float, horizontal: float, expected: tuple[float, float], caplog: pytest.LogCaptureFixture
) -> None:
    amplitude = wave((700, 600), vertical, horizontal)
    seen = np.ones(amplitude.shape, bool)

    def sections() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield amplitude, seen

    with caplog.at_level(logging.WARNING):
        factors = choose_factors(sections, GRAIN, TILE)
    assert factors == pytest.approx(expected, rel=0.12)
    after = survey_frequency(sections, TILE, factors)
    assert after == pytest.approx((vertical / factors[0], horizontal / factors[1]), rel=0.15)
    assert not caplog.records


def test_a_survey_that_stays_outside_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    amplitude = wave((500, 400), 0.4, 0.034)
    narrow = Grain((0.040, 0.046, 0.060), GRAIN.horizontal)
    with caplog.at_level(logging.WARNING):
        factors = choose_factors(lambda: [(amplitude, np.ones(amplitude.shape, bool))], narrow, TILE)
    assert factors[0] == 4
    assert "vertical frequency is 0.1" in caplog.text
    assert "0.040 … 0.060" in caplog.text


def test_a_synthetic_survey_sampled_otherwise_is_brought_back() -> None:
    """A section like the training images, thinned out 2.5 times in depth, comes back to their median."""
    amplitude, _ = section(np.random.default_rng(1), 606, 404)
    thin = resample(amplitude, (606 * 2 // 5, 404), "amplitude")
    before = survey_frequency(lambda: [(amplitude, np.ones(amplitude.shape, bool))], TILE, (1, 1))
    grain = Grain((0.02, before[0], 0.14), (0.01, before[1], 0.1))
    vertical, horizontal = choose_factors(lambda: [(thin, np.ones(thin.shape, bool))], grain, TILE)
    assert vertical == pytest.approx(2.5, rel=0.15)
    assert horizontal == 1


def test_nothing_live_leaves_a_survey_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    empty = np.zeros((200, 200), np.float32)
    assert choose_factors(lambda: [(empty, empty > 0)], GRAIN, TILE) == (1, 1)
    assert choose_factors(list, GRAIN, TILE) == (1, 1)


@pytest.mark.parametrize("value", [[1], [1, 2, 3], [0, 1], [-1, 1], ["a", 1], [17, 1], None, 3, [float("nan"), 1]])
def test_factors_that_are_none(value: object) -> None:
    with pytest.raises(SaltsegError, match=r"segy\.resample"):
        check_factors(value)
    assert check_factors(["2", 0.5]) == (2, 0.5)
