"""What goes into a network can be brought back, and is normalised as its encoder expects."""

from typing import Any

import numpy as np
import pytest
import torch

from saltseg.data.images import IGNORE
from saltseg.data.prepare import MULTIPLE, Normalize, as_target, fit_array, fitted_shape, margins, unfit

SIZES = [(101, 101), (32, 32), (96, 64), (1, 1), (2, 3), (7, 31), (31, 101), (33, 127), (128, 5), (100, 99)]


def image(shape: tuple[int, int]) -> Any:
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("native", SIZES)
def test_the_fitted_shape_is_the_smallest_multiple_that_holds_it(native: tuple[int, int]) -> None:
    for fitted, side in zip(fitted_shape(native), native, strict=True):
        assert fitted % MULTIPLE == 0
        assert fitted - MULTIPLE < side <= fitted
    assert fitted_shape((101, 30), (20, 200)) == (128, 224)


@pytest.mark.parametrize("native", SIZES)
@pytest.mark.parametrize("shape", [None, (256, 160)])
def test_pad_then_crop_is_the_identity(native: tuple[int, int], shape: tuple[int, int] | None) -> None:
    before = image(native)
    fitted = fit_array(before, shape or fitted_shape(native), "pad")
    assert fitted.shape == (shape or fitted_shape(native))
    after = unfit(torch.from_numpy(fitted)[None, None], native, "pad")
    assert np.array_equal(after[0, 0], before)


def test_padding_mirrors_evenly() -> None:
    before = image((101, 101))
    fitted = fit_array(before, (128, 128), "pad")
    top, left = margins((101, 101), (128, 128))
    assert (top, left) == (13, 13)
    assert np.array_equal(fitted[:top, left : left + 101], before[1 : top + 1][::-1])
    assert np.array_equal(fitted[top : top + 101, left + 101 :], before[:, -15:-1][:, ::-1])


@pytest.mark.parametrize("native", SIZES)
def test_resize_comes_back_to_the_shape_and_keeps_constants(native: tuple[int, int]) -> None:
    fitted = fit_array(np.full(native, 77, np.uint8), fitted_shape(native), "resize")
    after = unfit(torch.from_numpy(fitted).float()[None, None], native, "resize")
    assert after.shape == (1, 1, *native)
    assert (after - 77).abs().max() < 1e-4


def test_resize_comes_back_to_a_smooth_image() -> None:
    ramp = np.add.outer(np.arange(101), np.arange(101)).astype(np.uint8)
    after = unfit(torch.from_numpy(fit_array(ramp, (128, 128), "resize")).float()[None, None], (101, 101), "resize")
    assert np.abs(after[0, 0].numpy() - ramp).max() < 2


@pytest.mark.parametrize("native", SIZES)
@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_masks_keep_their_values(native: tuple[int, int], fit: Any) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, IGNORE], np.uint8), native)
    assert set(np.unique(fit_array(mask, fitted_shape(native), fit, is_mask=True))) <= set(np.unique(mask))


def test_imagenet_normalisation_is_of_the_encoders_mean_and_std() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ends = Normalize("imagenet", mean, std)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert ends.shape == (1, 3, 1, 2)
    assert ends.dtype == torch.float32
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        assert ends[0, channel, 0].tolist() == pytest.approx([-m / s, (1 - m) / s])


def test_tile_normalisation_by_hand() -> None:
    normalize = Normalize("tile", (0.5,) * 3, (0.5,) * 3)
    assert normalize(torch.tensor([[[[1, 2, 3]]]]))[0].flatten().tolist() == [-1, 0, 1] * 3
    spike = torch.zeros(1, 1, 32, 32)
    spike[..., 5, 5] = 255
    assert normalize(spike).max() == 3
    assert normalize(torch.full((2, 1, 32, 32), 9)).abs().max() == 0


@pytest.mark.parametrize(("gain", "offset"), [(2, 0), (1, 30), (0.1, 5), (7, -40)])
def test_tile_normalisation_does_not_see_contrast_and_offset(gain: float, offset: float) -> None:
    normalize = Normalize("tile", (0.5,) * 3, (0.5,) * 3)
    images = torch.from_numpy(np.stack([image((64, 64)), image((32, 128)).reshape(64, 64)]))[:, None].float()
    torch.testing.assert_close(normalize(gain * images + offset), normalize(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalize(images)[:1], normalize(images[:1]))  # nor its neighbours in the batch


def test_the_normalisation_travels_with_the_weights() -> None:
    trained = Normalize("imagenet", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    other = Normalize("imagenet", (0.0,) * 3, (1.0,) * 3)
    other.load_state_dict(trained.state_dict())
    x = torch.from_numpy(image((32, 32)))[None, None]
    assert torch.equal(other(x), trained(x))
    assert not list(trained.parameters())


def test_targets() -> None:
    target, ignored = as_target(np.array([[0, 1, IGNORE]], np.uint8))
    assert target.tolist() == [[0, 1, 0]]
    assert ignored.tolist() == [[False, False, True]]
