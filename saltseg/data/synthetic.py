"""Synthetic sections of strata and salt, about as hard to segment as TGS: made from a seed, never shipped.

What makes real salt hard is built in: a band-limited image of a wide-band earth, flanks too steep to be imaged, salt
filled with the ghosts and the noise that its surroundings have too, bright or chaotic sediments that are no salt, and
an interpreter's hand. ``tests/seismic_statistics.py`` measures how near the tiles come to those of TGS.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from saltseg.data.datamodule import SaltDataModule
from saltseg.data.images import Array8, Images
from saltseg.errors import SaltsegError

Float = NDArray[np.float32]
Shape = tuple[int, int]

TILE = 101
GRID = (3, 5)  # tiles of a section: down, across
MARGIN = 40  # pixels around a section, made and cut off: the imaging operator wraps around
FULL = 0.98  # more salt than this, and a tile is left out: TGS has no full mask either


class Synthetic(SaltDataModule):
    """The embedded synthetic set: as many tiles as the split asks for.

    Args:
        data_seed: of the tiles; independent of the training's seed.
        common: what every dataset takes, see :class:`~saltseg.data.datamodule.SaltDataModule`.
    """

    def __init__(self, *, data_seed: int = 0, **common: Any) -> None:
        super().__init__(**common)
        self.data_seed = data_seed

    def read(self) -> Images:
        """Makes the tiles: about 5 ms each.

        Raises:
            SaltsegError: if a part of the split is not a number of images.
        """
        sizes = [getattr(self.split_config, part) for part in ("train", "val", "test")]
        if any(size is None or size != int(size) for size in sizes):
            raise SaltsegError(
                f"data.split.train/val/test = {sizes}: the synthetic set makes as many tiles as these say, "
                "so give three numbers of images, not shares."
            )
        return make_synthetic(int(sum(sizes)), self.data_seed)


def make_synthetic(count: int, seed: int) -> Images:
    """``count`` labelled tiles of 101×101, in the order of the sections that they are cut from.

    As in TGS, each tile is stretched between its own least and greatest value to 8 bits, none is all salt, and its
    depth tells nothing. A tile depends on ``seed`` and its position alone, not on ``count``.
    """
    images: list[Array8] = []
    masks: list[Array8] = []
    depth: list[float] = []
    group: list[str] = []
    number = 0
    while len(images) < count:
        rng = np.random.default_rng((seed, number))
        amplitudes, salt = section(rng, *(TILE * n for n in GRID))
        for z, x in np.ndindex(GRID):
            window = slice(z * TILE, (z + 1) * TILE), slice(x * TILE, (x + 1) * TILE)
            if salt[window].mean() < FULL:
                images.append(stretch(amplitudes[window]))
                masks.append(salt[window].copy())
                depth.append(float(rng.integers(50, 960)))
                group.append(f"section_{number:05d}")
        number += 1
    return Images(
        ids=[f"syn_{k:07d}" for k in range(count)],
        images=images[:count],
        masks=masks[:count],
        depth=np.array(depth[:count]),
        group=group[:count],
        suspect=np.zeros(count, dtype=bool),
    )


def stretch(image: Float) -> Array8:
    """``image`` (H×W) between its least and its greatest value, in 8 bits."""
    low, high = float(image.min()), float(image.max())
    return np.round((image - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def section(rng: np.random.Generator, height: int, width: int) -> tuple[Float, Array8]:
    """One section as an interpreter gets it, and what he makes of its salt.

    Returns:
        Amplitudes, H×W float32, deviation near 1 outside salt; mask, H×W uint8 of 0 and 1.
    """
    shape = fft.next_fast_len(height + 2 * MARGIN, real=True), fft.next_fast_len(width + 2 * MARGIN, real=True)
    quiet = rng.random() < 0.15
    salt = salt_distance(rng, shape, density=0.0 if quiet else 1.0)
    operator = Operator.draw(rng, shape, 0.09 if quiet else 0.073)
    time = geologic_time(rng, salt, 1 / operator.frequency, strength=0.35 if quiet else 1.0)
    strata, others = (Strata.draw(rng, time, operator.frequency) for _ in range(2))
    sediment = strata.at(time) + others.at(time) * smooth(rng, shape, rng.uniform(0.25, 0.75) / operator.frequency)

    # Salt is a hard, even block in the sediments; its contrast changes along its boundary.
    share = _sigmoid(salt / np.float32(0.7))
    hardness = rng.lognormal(np.log(5), 0.5) * rng.choice([1, -1], p=[0.96, 0.04])
    hardness = hardness * np.clip(1 + 0.65 * curve(rng, shape[1], 20), -0.3, 2)
    signal = operator.image(sediment * (1 - share) + hardness * share)
    signal /= signal[salt < max(-6, salt.min() + 1)].std()
    shadow = _sigmoid((np.maximum.accumulate(salt, axis=0) - 10) / 4)
    signal *= 1 - rng.uniform(0, 0.9) * shadow  # the base of salt and what lies below are poorly lit

    # Outside, noise in patches; inside, noise and a ghost of the strata, so that chaos alone tells nothing. But waves
    # are longer in salt, which is fast.
    rough = _unit(operator.noise(rng) + rng.uniform(0, 0.6) * operator.swings(rng))
    level = rng.lognormal(np.log(0.2 if quiet else 0.42), 0.6) * np.exp(0.4 * smooth(rng, shape, 60))
    ghost = _unit(operator.image(ndimage.uniform_filter1d(strata.at(time + rng.uniform(20, 90)), 9, axis=1)))
    fill = _unit(0.75 * rough + rng.uniform(0, 1.3) * ghost)
    zoom = np.clip(rng.normal(1.85, 0.45), 1, 4)
    fill = cv2.resize(fill[: int(shape[0] / zoom), : int(shape[1] / zoom)], shape[::-1])
    fade = _sigmoid(salt / 3)
    image = signal + level * rough * (1 - fade) + rng.lognormal(np.log(0.6), 0.5) * fill * fade
    image *= np.exp(0.25 * smooth(rng, shape, 60))

    # The interpreter picks where the bright event begins, not to the pixel, and the dim base less surely.
    picked = np.roll(salt, -1, axis=0) + rng.gamma(2, 0.5) * smooth(rng, shape, 10)
    slip = np.rint(0.2 / operator.frequency * curve(rng, shape[1], 40)).astype(int)
    moved = np.take_along_axis(picked, (np.arange(shape[0])[:, None] - slip) % shape[0], axis=0)
    picked = np.where(slip > 0, np.maximum(picked, moved), np.minimum(picked, moved))
    inner = slice(MARGIN, MARGIN + height), slice(MARGIN, MARGIN + width)
    return image[inner].astype(np.float32), (picked[inner] > 0).astype(np.uint8)


def salt_distance(rng: np.random.Generator, shape: Shape, density: float = 1.0) -> Float:
    """About the distance to the nearest salt boundary in pixels, H×W, positive inside: a union of stocks and sheets."""
    height, width = shape
    area = density * height * width
    distance = np.full(shape, -max(shape), np.float32)
    for _ in range(rng.poisson(area / 54_000)):
        start, end = height * rng.uniform(-0.2, 0.75), height * rng.uniform(0.4, 1.6)
        distance = np.maximum(distance, _body(rng, (width, height), start, end, rng.lognormal(np.log(26), 0.95)).T)
    for _ in range(rng.poisson(area / 150_000)):
        start = width * rng.uniform(-0.5, 0.6)
        end = start + rng.lognormal(np.log(300), 0.5)
        distance = np.maximum(distance, _body(rng, shape, start, end, rng.lognormal(np.log(16), 0.9)))
    return distance


def _body(rng: np.random.Generator, shape: Shape, start: float, end: float, half: float) -> Float:
    """Distance to one body's boundary: it lies along axis 1, from ``start`` to ``end``, about 2·``half`` thick."""
    across, along = np.arange(shape[0])[:, None], np.arange(shape[1])
    to_end = np.minimum(along - start, end - along)
    rounding = np.clip(to_end / (half * rng.uniform(0.3, 1.3)), 0, 1)
    thickness = half * np.exp(0.35 * curve(rng, shape[1], 60)) * np.sqrt(1 - (1 - rounding) ** 2)
    lean = np.clip(rng.normal(0, 0.3), -0.8, 0.8) * (along - shape[1] / 2)
    centre = rng.uniform(0, shape[0]) + lean + rng.gamma(1.5, 10) * curve(rng, shape[1], 70)
    low, high = (
        centre + side * thickness + rng.gamma(1.5, 0.8) * curve(rng, shape[1], rng.uniform(5, 15)) for side in (-1, 1)
    )
    distance: Float = np.minimum(np.minimum(across - low, high - across), to_end).astype(np.float32)
    return distance


def geologic_time(rng: np.random.Generator, salt: Float, wave: float, strength: float) -> Float:
    """The field whose level lines are the strata, H×W in pixels: dipping, folded, faulted, dragged along by salt."""
    height, width = salt.shape
    z, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    time: Float = z + np.float32(np.tan(np.radians(np.clip(strength * rng.normal(0, 22), -55, 55)))) * (x - width / 2)
    # Folds in wavelengths, so that there are some at the scale of any image.
    for length, amplitude in ((4.5, 1.5), (1.5, 0.38), (0.45, 0.11)):
        fold = smooth(rng, salt.shape, wave * length * rng.uniform(0.6, 1.4))
        time += np.float32(strength * wave * amplitude * rng.gamma(1.5, 1 / 1.5)) * fold
    for _ in range(rng.poisson(width / 110)):
        dip = np.radians(rng.uniform(50, 82)) * rng.choice([-1, 1])
        beyond = (x - rng.uniform(0, width)) * np.sin(dip) > (z - height / 2) * np.cos(dip)
        time += np.float32(rng.lognormal(np.log(6), 0.7)) * beyond
    time += 16 * smooth(rng, salt.shape, 50) * np.exp(np.minimum(salt, 0) / np.float32(rng.uniform(8, 40)))
    return time


@dataclass(frozen=True)
class Strata:
    """Log-impedance of the sediments, one value per unit of geologic time from ``first`` on; deviation 1."""

    values: Float
    first: float

    @classmethod
    def draw(cls, rng: np.random.Generator, time: Float, frequency: float) -> "Strata":
        """Laplace steps in packages of lognormal strength, as many as ``frequency`` (cycles/pixel) can show."""
        n = int(np.ptp(time)) + 100
        packages = np.repeat(rng.lognormal(0, 0.5, n // 8 + 1), 8)[:n]
        steps = rng.laplace(0, 1, n) * ndimage.gaussian_filter1d(packages, 0.4 / frequency)
        values = np.cumsum(steps * (rng.random(n) < np.clip(8 * frequency, 0.15, 0.9)))
        values -= ndimage.gaussian_filter1d(values, 2 / frequency)
        return cls((values / values.std()).astype(np.float32), float(time.min()))

    def at(self, time: Float) -> Float:
        """The values at each point of ``time``, linear in between."""
        place = time - np.float32(self.first)
        below = place.astype(np.int32)
        return self.values[below] + (place - below) * np.diff(self.values, append=0)[below]


@dataclass(frozen=True)
class Operator:
    """Seismic imaging as a filter of wavenumbers: a band, a limit to dip, a quarter turn of phase.

    Attributes:
        shape: H×W of what it works on.
        frequency: centre of the band, cycles/pixel.
        dip: H×(W/2+1) degrees of each wavenumber, signed.
        band: H×(W/2+1) gains.
        limit: the dip in degrees from which on nothing is imaged.
    """

    shape: Shape
    frequency: float
    dip: Float
    band: Float
    limit: float

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: Shape, median: float) -> "Operator":
        """A limit, and a band about a frequency whose ``median`` over sections is given."""
        frequency = float(np.clip(rng.lognormal(np.log(median), 0.5), 0.028, 0.2))
        kz = fft.fftfreq(shape[0]).astype(np.float32)[:, None]
        kx = fft.rfftfreq(shape[1]).astype(np.float32) * np.float32(rng.lognormal(-0.65, 0.35))
        low, high = frequency / 2.7 * rng.uniform(0.8, 1.2), frequency * 2.4 * rng.uniform(0.8, 1.2)
        k = np.maximum(np.hypot(kz, kx), 1e-4)
        band = (1 / (1 + (low / k) ** 6) / (1 + (k / high) ** 6)).astype(np.float32)
        dip = np.degrees(np.arctan2(kx * np.where(kz < 0, -1, 1), np.abs(kz)))
        return cls(shape, frequency, dip, band, rng.uniform(68, 90))

    def image(self, earth: Float) -> Float:
        """What is seen of ``earth`` (H×W log-impedance): a step up is a bright, zero-phase event."""
        seen = self.band * np.sin(np.pi / 2 * np.clip((self.limit - np.abs(self.dip)) / 18, 0, 1)) ** 2
        turn = 1j * np.sign(fft.fftfreq(self.shape[0])).astype(np.float32)[:, None]
        return self._back(fft.rfft2(earth) * seen * turn)

    def noise(self, rng: np.random.Generator) -> Float:
        """Chaos of the same band, a little of it beyond the limit too; deviation 1."""
        return self._white(rng, np.clip((self.limit + 7 - np.abs(self.dip)) / 25, 0.15, 1))

    def swings(self, rng: np.random.Generator) -> Float:
        """Two crossing trains of steep smiles, the marks of migration; deviation 1."""
        dips = rng.uniform(35, 75, 2) * rng.choice([-1, 1], 2)
        return self._white(rng, sum(np.exp(-(((self.dip - dip) / 8) ** 2)) for dip in dips))

    def _white(self, rng: np.random.Generator, gain: Any) -> Float:
        real, imaginary = rng.standard_normal((2, *self.band.shape), dtype=np.float32)
        return _unit(self._back((real + 1j * imaginary) * self.band * gain))

    def _back(self, spectrum: NDArray[np.complex64]) -> Float:
        section: Float = fft.irfft2(spectrum.astype(np.complex64), self.shape)
        return section


def smooth(rng: np.random.Generator, shape: Shape, scale: float) -> Float:
    """A random H×W field of mean 0 and deviation 1 that varies over about ``scale`` pixels.

    Numbers on a grid of that spacing, each spread by a Gaussian in both directions.
    """
    spread = []
    for n in shape:
        knots = np.arange(int(n / scale) + 6) - rng.uniform(2, 3)
        weight = np.exp(-0.8 * (np.arange(n)[:, None] / scale - knots) ** 2)
        spread.append((weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32))
    down, across = spread
    field: Float = down @ rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32) @ across.T
    return field


def curve(rng: np.random.Generator, n: int, scale: float) -> Float:
    """``n`` samples of a random curve like :func:`smooth`."""
    samples: Float = smooth(rng, (1, n), scale)[0]
    return samples


def _unit(x: Float) -> Float:
    unit: Float = x / np.float32(max(float(x.std()), 1e-9))
    return unit


def _sigmoid(x: NDArray[Any]) -> Float:
    share: Float = (0.5 * (1 + np.tanh(0.5 * x))).astype(np.float32)
    return share
