"""What seismic tiles and their salt masks are like, in numbers: the yardstick of the synthetic set.

:data:`TGS` holds what these measures give on the 3920 labelled TGS tiles that are not black.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from saltseg.data.sampling import frequencies

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

TGS = {
    "deviation": 28.2,
    "kurtosis": 1.92,
    "vertical_half": 3.0,
    "vertical_zero": 6.0,
    "vertical_trough": 11.0,
    "horizontal_half": 4.0,
    "horizontal_zero": 10.0,
    "frequency": 0.046,
    "bandwidth": 4.77,
    "rms_ratio": 0.59,
    "coherence_ratio": 0.99,
    "bright_top": 0.92,
    "bright_base": 0.13,
    "steep": 0.51,
    "empty": 0.38,
    "coverage_25": 0.11,
    "coverage_50": 0.36,
    "coverage_75": 0.67,
    "one_body": 0.915,
    "touch_bottom": 0.77,
    "touch_top": 0.66,
}


def tile_statistics(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> dict[str, float]:
    """The keys of :data:`TGS` for N×H×W tiles and their masks (0, 1): medians and shares over tiles.

    - ``deviation``, excess ``kurtosis``: of the 8-bit values of a tile.
    - ``vertical_*``, ``horizontal_*``: lags, see :func:`correlation`; ``frequency``, ``bandwidth``: :func:`spectrum`.
    - ``rms_ratio``: deviation inside over outside salt, 6 pixels off the boundary, both of at least 200 pixels.
    - ``coherence_ratio``: the same of the structure tensor's coherence (Gaussians of 1.5 and 5 pixels).
    - ``bright_top``, ``bright_base``: share of tiles whose mean over the 5 pixels below their salt's upper (lower)
      boundary, where it dips less than 45°, is above the tile's mean.
    - ``steep``: share of all boundary pixels that dip over 60°.
    - the rest is about masks: share ``empty``; of those with salt, quartiles of the share of salt, and the shares
      with a single body, reaching the bottom, reaching the top.
    """
    lively = images.std((1, 2)) > 0
    deviation = images[lively].std((1, 2), dtype=np.float64)
    scaled = (images[lively] - images[lively].mean((1, 2), keepdims=True)) / deviation[:, None, None]
    v_half, v_zero, v_trough = correlation(scaled, axis=1)
    h_half, h_zero, _ = correlation(scaled, axis=2)
    frequency, bandwidth = spectrum(scaled)

    salt = masks[lively] > 0
    has = salt.any((1, 2))
    pairs = list(zip(scaled[has], salt[has], strict=True))
    contrasts = np.array([_contrast(*pair) for pair in pairs])
    edges = [_edges(*pair) for pair in pairs]
    quartiles = np.percentile(salt[has].mean((1, 2)), [25, 50, 75])
    return {
        "deviation": float(np.median(deviation)),
        "kurtosis": float(np.median((scaled**4).mean((1, 2)) - 3)),
        "vertical_half": float(np.median(v_half)),
        "vertical_zero": float(np.median(v_zero)),
        "vertical_trough": float(np.median(v_trough)),
        "horizontal_half": float(np.median(h_half)),
        "horizontal_zero": float(np.median(h_zero)),
        "frequency": float(np.median(frequency)),
        "bandwidth": float(np.median(bandwidth)),
        "rms_ratio": float(np.nanmedian(contrasts[:, 0])),
        "coherence_ratio": float(np.nanmedian(contrasts[:, 1])),
        "bright_top": float(np.mean([top > 0 for top, _, _ in edges if not np.isnan(top)])),
        "bright_base": float(np.mean([base > 0 for _, base, _ in edges if not np.isnan(base)])),
        "steep": float(np.mean(np.concatenate([dips for _, _, dips in edges]) > 60)),
        "empty": float(1 - has.mean()),
        "coverage_25": float(quartiles[0]),
        "coverage_50": float(quartiles[1]),
        "coverage_75": float(quartiles[2]),
        "one_body": float(np.mean([ndimage.label(mask)[1] == 1 for mask in salt[has]])),
        "touch_bottom": float(salt[has][:, -1].any(1).mean()),
        "touch_top": float(salt[has][:, 0].any(1).mean()),
    }


def correlation(images: Float, axis: int) -> tuple[Float, Float, Float]:
    """First lags at which each tile's autocorrelation along ``axis`` is below 1/2, below 0, and least (up to 39).

    The lines' mean is taken off and their correlations are averaged over the tile. ``axis``: 1 vertical, 2 horizontal.
    """
    lines = images - images.mean(axis, keepdims=True)
    power = (np.abs(fft.rfft(lines, 2 * images.shape[axis], axis=axis)) ** 2).mean(3 - axis)
    r = fft.irfft(power, axis=1)[:, :60]

    def first_below(share: float) -> Float:
        below = r < share * r[:, :1]
        return np.where(below.any(1), below.argmax(1), r.shape[1]).astype(float)

    return first_below(0.5), first_below(0.0), r[:, :40].argmin(1).astype(float)


def spectrum(images: Float) -> tuple[Float, Float]:
    """Median frequency (cycles/sample) and f90/f10 of the vertical power spectrum of each tile."""
    f10, f50, f90 = frequencies(images, axis=1, shares=(0.1, 0.5, 0.9))
    return f50, f90 / f10


def _contrast(image: Float, salt: Bool) -> tuple[float, float]:
    """Deviation and coherence inside over outside salt; NaN where either side is too small."""
    inside, outside = (ndimage.binary_erosion(side, iterations=6, border_value=1) for side in (salt, ~salt))
    if min(inside.sum(), outside.sum()) < 200:
        return np.nan, np.nan
    dz, dx = (ndimage.gaussian_filter(image, 1.5, order=order) for order in ((1, 0), (0, 1)))
    zz, xx, zx = (ndimage.gaussian_filter(product, 5) for product in (dz * dz, dx * dx, dz * dx))
    coherence = np.sqrt((zz - xx) ** 2 + 4 * zx**2) / (zz + xx + 1e-9)
    return image[inside].std() / image[outside].std(), coherence[inside].mean() / coherence[outside].mean()


def _edges(image: Float, salt: Bool) -> tuple[float, float, Float]:
    """Mean just below the upper and the lower boundary (NaN under 5 pixels of them), dips along the boundary."""
    smooth = ndimage.gaussian_filter(salt.astype(float), 2, mode="nearest")
    dip = np.degrees(np.arctan2(np.abs(ndimage.sobel(smooth, 1)), np.abs(ndimage.sobel(smooth, 0))))
    step = np.diff(salt.astype(int), axis=0)
    step[:8] = step[-8:] = 0
    below = []
    for sign in (1, -1):
        z, x = np.nonzero((step == sign) & (dip[:-1] < 45))
        below.append(np.mean([image[z + k, x] for k in range(5)]) if len(z) >= 5 else np.nan)
    boundary = salt & ~ndimage.binary_erosion(salt, border_value=1)
    boundary[[0, -1]] = boundary[:, [0, -1]] = False
    return below[0], below[1], dip[boundary]
