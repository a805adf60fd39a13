"""Errors of surfaces and of probabilities against cases computed by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from saltseg.calibration import expected_calibration_error, histogram, reliability
from saltseg.comparison.surfaces import Truth, boundary, hausdorff95, picks


def layer(top: int, base: int, shape: tuple[int, int] = (20, 8)) -> np.ndarray:
    """Salt from one row to another, both of them salt, in every trace."""
    rows = np.arange(shape[0])[:, None]
    return np.broadcast_to((rows >= top) & (rows <= base), shape).copy()


def truth_of(salt: np.ndarray) -> Truth:
    return Truth.of(salt, np.ones_like(salt))


def test_top_and_base_are_picked_trace_by_trace() -> None:
    predicted = layer(7, 12)
    predicted[:, 3] = False  # one trace without salt
    predicted[2, 4] = True  # a speck far above is what the picker would pick
    found = picks(truth_of(layer(5, 14)), predicted)
    assert found.top.tolist() == [2, 2, 2, 3, 2, 2, 2]
    assert found.base.tolist() == [2] * 7
    assert (found.traces, found.missed) == (8, 1)


def test_salt_that_runs_out_of_the_image_has_no_surface_there() -> None:
    found = picks(truth_of(layer(0, 14)), layer(3, 16))
    assert found.top.tolist() == []
    assert found.base.tolist() == [2] * 8
    found = picks(truth_of(layer(5, 19)), layer(0, 19))
    assert found.top.tolist() == [5] * 8
    assert found.base.tolist() == []


def test_nothing_predicted_is_missed_and_has_no_error() -> None:
    truth = truth_of(layer(5, 14))
    found = picks(truth, np.zeros((20, 8), bool))
    assert (len(found.top), len(found.base), found.missed) == (0, 0, 8)
    assert np.isnan(hausdorff95(truth, np.zeros((20, 8), bool)))


def test_a_boundary_lies_inside_the_image() -> None:
    assert boundary(layer(5, 14)).sum(1).nonzero()[0].tolist() == [5, 14]
    assert boundary(layer(0, 14)).sum(1).nonzero()[0].tolist() == [14]
    assert not boundary(np.ones((20, 8), bool)).any()


def test_hausdorff_distance() -> None:
    truth = truth_of(layer(5, 14))
    assert hausdorff95(truth, layer(5, 14)) == 0
    assert hausdorff95(truth, layer(8, 14)) == 3
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = (rng.random((12, 15)) > 0.7 for _ in range(2))
        apart = cdist(np.argwhere(boundary(first)), np.argwhere(boundary(second)))
        expected = max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
        assert hausdorff95(truth_of(first), second) == pytest.approx(expected)


def test_the_band_is_seven_pixels_wide_and_labelled() -> None:
    labelled = np.ones((20, 8), bool)
    labelled[:, 0] = False
    band = Truth.of(layer(10, 19), labelled).band
    assert band.sum(1).nonzero()[0].tolist() == [7, 8, 9, 10, 11, 12, 13]
    assert not band[:, 0].any()


def test_calibration_by_hand() -> None:
    probability = np.array([51, 51, 51, 51, 204, 204], np.uint8)  # 0.2 and 0.8
    salt = np.array([0, 0, 0, 1, 1, 1], bool)
    counts = histogram(probability, salt)
    assert counts.sum() == 6
    table = reliability(counts)
    assert table["confidence"].tolist() == pytest.approx([0.2, 0.8])
    assert table["salt"].tolist() == pytest.approx([0.25, 1.0])
    assert table["pixels"].tolist() == [4, 2]
    assert expected_calibration_error(counts) == pytest.approx((4 * 0.05 + 2 * 0.2) / 6)


def test_honest_probabilities_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probability = rng.integers(0, 256, 400_000).astype(np.uint8)
    salt = rng.random(len(probability)) < probability / 255
    assert expected_calibration_error(histogram(probability, salt)) < 0.01
    assert expected_calibration_error(histogram(probability, np.ones_like(salt))) == pytest.approx(0.5, abs=0.01)
