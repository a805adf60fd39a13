"""What of a section measures rock, and the grey that the network is shown of it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from saltseg.data.amplitude import live, stretch, stretch_between
from saltseg.data.folder import to_image

TILE = (101, 101)
Shape = tuple[int, int]


def noise(shape: Shape, seed: int = 0, sigma: float = 2.0) -> np.ndarray:
    """Band-limited amplitudes of deviation 1 around 0."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="wrap")
    return (values / values.std()).astype(np.float32)


def everything(amplitude: np.ndarray) -> np.ndarray:
    return np.ones(amplitude.shape, bool)


# --- live -----------------------------------------------------------------------------------------------------------


def test_mute_water_and_padding_are_not_live() -> None:
    amplitude = 1 + np.abs(noise((100, 6)))
    amplitude[:20, 1] = 0  # muted
    amplitude[:30, 2] = 0.005 * noise((30, 1), seed=1)[:, 0].clip(-1, 1)  # water
    amplitude[-15:, 3] = 0  # padded
    amplitude[-15:, 4] = 0.005  # deep and dark, but measured
    amplitude[40:60, 5] = 0  # silent in the middle, between rocks
    expected = everything(amplitude)
    expected[:20, 1] = expected[:30, 2] = expected[-15:, 3] = False
    np.testing.assert_array_equal(live(amplitude, np.zeros(6, bool)), expected)


def test_dead_traces_and_what_is_no_number_are_not_live() -> None:
    amplitude = noise((50, 6))
    amplitude[0], amplitude[-1] = 3, -3
    amplitude[:, 1] = 7
    amplitude[:, 2] = 0
    amplitude[:, 3] = np.nan
    amplitude[10:12, 4] = [np.nan, np.inf]
    expected = everything(amplitude)
    expected[:, [1, 2, 3, 5]] = expected[10:12, 4] = False
    np.testing.assert_array_equal(live(amplitude, np.array([0, 0, 0, 0, 0, 1], bool)), expected)


def test_a_zero_crossing_at_the_end_of_a_trace_is_live() -> None:
    amplitude = 1 + np.abs(noise((50, 2)))
    amplitude[:2, 0] = amplitude[-3:, 1] = 0
    assert live(amplitude, np.zeros(2, bool)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e6, 1e30])
def test_what_is_live_does_not_depend_on_the_unit(scale: float) -> None:
    amplitude = noise((100, 20))
    amplitude[:25, :10] = 0
    dead = np.zeros(20, bool)
    np.testing.assert_array_equal(live(amplitude * np.float32(scale), dead), live(amplitude, dead))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (130, 120)])
@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_a_section_without_contrast_has_nothing_live(shape: Shape, value: float) -> None:
    amplitude = np.full(shape, value, np.float32)
    seen = live(amplitude, np.zeros(shape[1], bool))
    assert not seen.any()
    assert np.unique(stretch(amplitude, seen, TILE)).size == 1


def test_clipped_amplitudes_are_live() -> None:
    amplitude = noise((150, 150)).clip(-0.5, 0.5)
    square = np.sign(noise((150, 150)))
    for clipped in (amplitude, square):
        seen = live(clipped, np.zeros(150, bool))
        assert seen.all()
        grey = stretch(clipped, seen, TILE)
        assert (grey[clipped == clipped.max()] == 255).all()
        assert (grey[clipped == clipped.min()] == 0).all()


# --- stretch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(101, 101), (60, 101), (101, 7), (40, 30), (1, 9)])
def test_a_section_no_larger_than_a_tile_comes_out_as_one(shape: Shape) -> None:
    amplitude = 300 * noise(shape) + 17
    expected = to_image(amplitude, Path("a.tif"))
    np.testing.assert_array_equal(stretch(amplitude, everything(amplitude), TILE), expected)


def test_all_samples_that_are_not_live_have_the_grey_of_zero() -> None:
    amplitude = np.linspace(-1, 3, 101 * 101, dtype=np.float32).reshape(101, 101)
    seen = everything(amplitude)
    seen[:20] = False
    amplitude[:20] = 1e6  # noise that nobody asked for
    amplitude[0, 0] = np.nan
    grey = stretch(amplitude, seen, TILE)
    low, high = amplitude[seen].min(), amplitude[seen].max()
    assert low < 0
    np.testing.assert_array_equal(grey[~seen], np.rint(255 * -low / (high - low)))
    assert (grey[seen].min(), grey[seen].max()) == (0, 255)


def test_a_gain_that_changes_smoothly_is_undone() -> None:
    """A hundredfold decay in time and a tenfold ramp across leave a contrast as even as without them."""
    even = noise((600, 500))
    gain = np.outer(np.geomspace(1, 0.01, 600), np.geomspace(1, 10, 500)).astype(np.float32)
    seen = everything(even)
    plain, gained = (stretch(a, seen, TILE).astype(float) for a in (even, even * gain))
    parts = [(slice(r, r + 100), slice(c, c + 100)) for r in range(0, 600, 100) for c in range(0, 500, 100)]
    ratio = [gained[p].std() / plain[p].std() for p in parts]
    # Within a tile the decay is that of a training tile, too, and stays.
    assert 0.6 < min(ratio) < max(ratio) < 1.1
    whole = stretch_between(even * gain, seen, *np.percentile(even * gain, (0.5, 99.5))).astype(float)
    assert min(whole[p].std() / plain[p].std() for p in parts) < 0.1


def test_there_is_no_seam_where_windows_meet() -> None:
    """Next to a strong half: from none of its influence to all of it, 255 at most, in no less than a stride."""
    ramp = np.tile(np.linspace(-1, 1, 400, dtype=np.float32)[:, None], (1, 500))
    ramp[:, 250:] *= 20
    grey = stretch(ramp, everything(ramp), TILE).astype(float)
    steps = np.abs(np.diff(grey[:, :249], axis=1)).max(axis=0)
    assert 0 < steps.max() <= 255 / (101 // 4) + 1


def test_it_does_not_depend_on_the_unit_nor_on_what_is_far() -> None:
    amplitude = noise((300, 400))
    seen = everything(amplitude)
    grey = stretch(amplitude, seen, TILE)
    assert np.abs(stretch(amplitude * 4096, seen, TILE).astype(int) - grey).max() == 0
    other = amplitude.copy()
    other[:, 300:] *= 50
    np.testing.assert_array_equal(stretch(other, seen, TILE)[:, :100], grey[:, :100])


def test_reversed_polarity_is_the_negative() -> None:
    amplitude = noise((250, 230))
    seen = everything(amplitude)
    turned = stretch(-amplitude, seen, TILE).astype(int)
    assert np.abs(turned - (255 - stretch(amplitude, seen, TILE))).max() <= 1


def test_windows_with_nothing_in_them_borrow() -> None:
    """An island of rock in water, and a hole of zeros in rock."""
    amplitude = noise((500, 500))
    seen = np.zeros((500, 500), bool)
    seen[200:300, 200:300] = True
    grey = stretch(np.where(seen, amplitude, 0), seen, TILE)
    assert np.isin([0, 255], grey[seen]).all()
    assert 64 < grey[~seen].min() <= grey[~seen].max() < 192  # zero lies where the nearest rock has it
    holed = amplitude.copy()
    holed[150:350, 150:350] = 0
    grey = stretch(holed, everything(holed), TILE)
    assert 100 < grey[200:300, 200:300].min() <= grey[200:300, 200:300].max() < 155
