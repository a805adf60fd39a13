"""Is a difference real? Means with intervals, paired differences, a test of each, and a correction for many tests.

What varies is which images were scored and, with three trainings of an arm or more, which seeds they had.

- Intervals are 95% percentile intervals of a bootstrap that draws groups of images (tiles of one section are no two
  observations). A percentile interval of two equal arms is [0, 0], where scipy's BCa interval is NaN.
- Crossed with the images, seeds are drawn: only what their means differ by beyond the images' share in it, which the
  first draw has already (without that a crossed bootstrap counts it up to three times: Owen, *The pigeonhole
  bootstrap*, 2007, https://doi.org/10.1214/07-AOAS122), and widened by √(S/(S−1)) and Student's quantile for a few
  seeds S (Hesterberg, *What teachers should know about the bootstrap*, 2015,
  https://doi.org/10.1080/00031305.2015.1089789).
- The test flips the signs of the groups' paired differences: it asks about the mean, as the interval does, and not
  about ranks as Wilcoxon's does. It knows the images alone; the interval knows the seeds, too.
- Holm's correction keeps the chance of one false difference among all pairs at 5%.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import norm, t

Floats = NDArray[np.float64]

DRAWS = 10_000
LEVEL = 0.95
#: With fewer seeds than this an interval speaks of these very checkpoints.
SEEDS = 3
_CHUNK = 1_000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference of two means, its interval, and the p-value of no difference, uncorrected."""

    p: float


@dataclass(frozen=True)
class Sample:
    """What was measured of one arm.

    Attributes:
        scores: S×N, a row per seed, a column per image; NaN where an image has no such score.
        trainings: S names of the trainings behind the rows; arms that share theirs get the same draws of seeds.
    """

    scores: Floats
    trainings: tuple[Hashable, ...]

    @property
    def images(self) -> Floats:
        """N means over the seeds."""
        return np.asarray(self.scores.mean(0))


class Images:
    """N images in groups, to be drawn again and again; equal draws at every call, so that all comparisons are paired.

    Args:
        groups: N names; images of one group are drawn together.
        draws: how often.
        seed: of the draws.
    """

    def __init__(self, groups: Sequence[str], draws: int = DRAWS, seed: int = 0) -> None:
        names, code = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.count, self.draws, self.seed = len(names), draws, seed
        self._member = csr_array((np.ones(len(code)), (code, np.arange(len(code)))), shape=(len(names), len(code)))

    def sums(self, values: Floats) -> Floats:
        """G×K sums of N×K ``values`` over each group, NaN left out."""
        return np.asarray(self._member @ np.nan_to_num(values))

    def means(self, values: Floats) -> Floats:
        """B×K means of N×K ``values``, one for each draw of as many groups as there are; NaN left out."""
        sums, counts = self.sums(values), np.asarray(self._member @ (~np.isnan(values)).astype(float))
        with np.errstate(invalid="ignore"):  # a draw may hold none of the few images that have a score
            return np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in self._drawn()])

    def weights(self) -> Iterator[NDArray[np.int64]]:
        """How often each image was drawn, b×N at a time, B in all."""
        for drawn in self._drawn():
            yield np.asarray(drawn @ self._member, np.int64)

    def p_values(self, differences: Floats) -> Floats:
        """K two-sided p-values that the means of N×K paired ``differences`` are 0: all flips of signs, or many.

        All 2^G of them where these are no more than the draws, which makes the test exact.
        """
        sums = self.sums(differences)
        observed = np.abs(sums.sum(0))
        reached = np.zeros(sums.shape[1])
        exact = 2**self.count <= self.draws
        total = 0
        for signs in self._all_signs() if exact else self._random_signs():
            reached += (np.abs(signs @ sums) >= observed * (1 - 1e-9)).sum(0)
            total += len(signs)
        return reached / total if exact else (reached + 1) / (total + 1)

    def _sizes(self) -> list[int]:
        return [min(_CHUNK, self.draws - start) for start in range(0, self.draws, _CHUNK)]

    def _drawn(self) -> Iterator[NDArray[np.int64]]:
        """How often each group was drawn, b×G at a time."""
        rng = np.random.default_rng(self.seed)
        for size in self._sizes():
            pick = rng.integers(self.count, size=(size, self.count)) + self.count * np.arange(size)[:, None]
            yield np.bincount(pick.ravel(), minlength=size * self.count).reshape(size, self.count)

    def _random_signs(self) -> Iterator[NDArray[np.int64]]:
        rng = np.random.default_rng(self.seed)
        for size in self._sizes():
            yield 1 - 2 * rng.integers(2, size=(size, self.count))

    def _all_signs(self) -> Iterator[NDArray[np.int64]]:
        numbers = np.arange(2**self.count)
        yield 1 - 2 * (numbers[:, None] >> np.arange(self.count) & 1)


def judge(
    samples: Sequence[Sample], pairs: Sequence[tuple[int, int]], images: Images
) -> tuple[list[Estimate], list[Difference]]:
    """The mean of each sample, and for each pair (i, j) the mean of i less the mean of j, paired by image."""
    columns = np.column_stack([s.images for s in samples])
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    differences = columns[:, first] - columns[:, second]
    seeds = np.column_stack([_seeds(s, images) for s in samples])
    freedom = np.array([len(s.scores) - 1 if len(s.scores) >= SEEDS else 0 for s in samples])
    means = interval(columns, images.means(columns) + _widened(seeds, freedom))
    apart = _widened(seeds[:, first] - seeds[:, second], freedom[first] + freedom[second])
    estimates = interval(differences, images.means(differences) + apart)
    p_values = images.p_values(differences)
    return means, [Difference(e.value, e.low, e.high, float(p)) for e, p in zip(estimates, p_values, strict=True)]


def interval(values: Floats, draws: Floats) -> list[Estimate]:
    """Of N×K values and B×K means of their draws, K means with intervals; NaN where no image has a score."""
    tail = (1 - LEVEL) / 2
    quantile = np.nanquantile if np.isnan(draws).any() else np.quantile
    known = ~np.isnan(values).all(0)
    result = [Estimate(np.nan, np.nan, np.nan)] * values.shape[1]
    low, high = quantile(draws[:, known], [tail, 1 - tail], axis=0)
    for k, bottom, top in zip(np.flatnonzero(known), low, high, strict=True):
        result[k] = Estimate(float(np.nanmean(values[:, k])), float(bottom), float(top))
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: Holm, *A simple sequentially rejective multiple test procedure*, 1979."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return [float(c) for c in corrected]


def _seeds(sample: Sample, images: Images) -> Floats:
    """B deviations of the mean when seeds are drawn, too; 0 where there are too few to tell."""
    count = len(sample.scores)
    if count < SEEDS:
        return np.zeros(images.draws)
    means = np.nanmean(sample.scores, axis=1)
    deviations = images.means((sample.scores - sample.images).T)
    by_images = deviations.var(0).mean() * count / (count - 1)
    between = means.var(ddof=1)
    own = np.sqrt(max(0.0, 1 - by_images / between)) if between > 0 else 0.0
    order = np.argsort([str(training) for training in sample.trainings], kind="stable")
    rng = np.random.default_rng([images.seed, *"".join(sorted(map(str, sample.trainings))).encode()])
    weights = rng.multinomial(count, np.full(count, 1 / count), size=images.draws) / count - 1 / count
    return np.asarray(np.sqrt(count / (count - 1)) * own * weights @ means[order])


def _widened(deviations: Floats, freedom: NDArray[np.int64]) -> Floats:
    """B×K deviations, whose variance was estimated with K degrees of freedom, by Student's quantile to the normal."""
    tail = (1 + LEVEL) / 2
    return np.asarray(deviations * np.where(freedom > 0, t.ppf(tail, np.maximum(freedom, 1)) / norm.ppf(tail), 1.0))
