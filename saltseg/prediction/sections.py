"""What a survey's sections go through before and after the network, and the options that say so."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from saltseg.data import amplitude as amplitudes
from saltseg.data.images import Array8
from saltseg.data.sampling import Grain, check_factors, choose_factors, resample, resampled_shape
from saltseg.data.segy import Direction, Domain, Section, Segy
from saltseg.data.segy_headers import Keys
from saltseg.errors import SaltsegError, check_choice

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Predict = Callable[[Sequence[Array8]], list[Float]]

#: Sections that tell a survey's frequencies and percentiles.
SAMPLED = 8
#: Samples of each of them that tell its percentiles.
COUNTED = 1_000_000


@dataclass
class SurveyOptions:
    """How a survey is read, predicted and written: the group ``segy:`` of ``predict``.

    Args:
        inline: first byte of the inline number in a trace header; likewise ``crossline``, ``x``, ``y``.
        domain: ``time`` or ``depth``: the file doesn't say.
        polarity: ``normal`` or ``reversed``, which is turned round before the network sees it.
        resample: ``auto`` (to the frequencies of the training images), ``none``, or factors ``[vertical, horizontal]``.
        amplitude: ``window``, stretched as the training tiles were; ``survey``, between percentiles of the whole.
        direction: of the sections of a cube: ``inline``, ``crossline``, or ``both``, averaged.
        smooth: deviation of a Gaussian across slices, in slices; 0 is off.
        format: of the samples: ``same``, ``ibm``, ``ieee``.
        null: where there is no probability: not live, see :func:`saltseg.data.amplitude.live`.
        mask: write ``<name>_mask.sgy`` as well.
        points: write the tops and bases of salt as well, ``<name>_points.csv``.
        fill_holes: fill what is enclosed in salt on a section, in mask and points; probabilities stay.

    Raises:
        SaltsegError: if one of them is none of the choices.
    """

    inline: int = 189
    crossline: int = 193
    x: int = 181
    y: int = 185
    domain: str = "time"
    polarity: str = "normal"
    resample: Any = "auto"
    amplitude: str = "window"
    direction: str = "inline"
    smooth: float = 0.0
    format: str = "same"
    null: float = -1.0
    mask: bool = False
    points: bool = False
    fill_holes: bool = False

    def __post_init__(self) -> None:
        check_choice("segy.domain", self.domain, get_args(Domain))
        check_choice("segy.polarity", self.polarity, ("normal", "reversed"))
        check_choice("segy.amplitude", self.amplitude, ("window", "survey"))
        check_choice("segy.direction", self.direction, (*get_args(Direction), "both"))
        check_choice("segy.format", self.format, ("same", "ibm", "ieee"))
        if isinstance(self.resample, str):
            check_choice("segy.resample", self.resample, ("auto", "none"))
        else:
            check_factors(self.resample)
        if not self.smooth >= 0:
            raise SaltsegError(f"segy.smooth={self.smooth}: expected a number of slices, or 0 for none.")
        if not np.isfinite(self.null) or 0 <= self.null <= 1:
            raise SaltsegError(f"segy.null={self.null}: expected a number that is no probability, such as -1.")

    def open(self, path: Path) -> Segy:
        """The survey at ``path``."""
        keys = Keys(inline=self.inline, crossline=self.crossline, x=self.x, y=self.y)
        return Segy.open(path, keys, self.domain)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Preparation:
    """What happens to a section of one direction before and after the network.

    Attributes:
        window: samples and traces of a training tile.
        reverse: turn the polarity round.
        factors: new samples for each old one, vertically and horizontally.
        bounds: of the stretch; None: local ones.
    """

    window: tuple[int, int]
    reverse: bool = False
    factors: tuple[float, float] = (1.0, 1.0)
    bounds: tuple[float, float] | None = None

    def measured(self, survey: Segy, section: Section) -> tuple[Float, Bool]:
        """Amplitudes in the network's polarity, 0 where not live, and what is live."""
        live = amplitudes.live(section.amplitude, survey.dead[section.traces])
        values = np.where(live, section.amplitude, np.float32(0))
        return (-values if self.reverse else values), live

    def grey(self, values: Float, live: Bool) -> Array8:
        """What the network sees of a section."""
        shape = resampled_shape(values.shape, self.factors)
        fine, alive = resample(values, shape, "amplitude"), resample(live, shape, "live")
        if self.bounds is None:
            return amplitudes.stretch(fine, alive, self.window)
        return amplitudes.stretch_between(fine, alive, *self.bounds)

    def probabilities(self, survey: Segy, section: Section, predictor: Predict) -> Float:
        """Samples × traces of the survey; NaN where not live."""
        values, live = self.measured(survey, section)
        if not live.any():
            return np.full(live.shape, np.nan, np.float32)
        found = resample(predictor([self.grey(values, live)])[0], values.shape, "probability")
        return np.where(live, found, np.float32(np.nan))


def prepare(
    survey: Segy, direction: Direction, window: tuple[int, int], grain: Grain | None, options: SurveyOptions
) -> Preparation:
    """What ``options`` mean for the sections of one direction.

    Raises:
        SaltsegError: if ``segy.resample=auto`` and it isn't known what the network was trained on.
    """
    plain = Preparation(window, reverse=options.polarity == "reversed")
    numbers = survey.numbers(direction)
    picked = [numbers[k] for k in np.unique(np.linspace(0, len(numbers) - 1, SAMPLED + 2).round().astype(int))]
    picked = picked[1:-1] if len(picked) > 2 else picked  # the outermost sections are often short

    def sections() -> Iterator[tuple[Float, Bool]]:
        return (plain.measured(survey, survey.section(direction, number)) for number in picked)

    factors, bounds = (1.0, 1.0), None
    if options.resample == "auto":
        if grain is None:
            raise SaltsegError(
                "segy.resample=auto: the run's metrics.json doesn't say how finely its training images were sampled "
                "(grain/…), for it was trained by an older version. Give segy.resample=none, or [vertical,horizontal]."
            )
        factors = choose_factors(sections, grain, window)
    elif options.resample != "none":
        factors = check_factors(options.resample)
    if options.amplitude == "survey":
        counted = [v[live][:: max(int(live.sum()) // COUNTED, 1)] for v, live in sections()]
        every = np.concatenate(counted)
        if every.size:
            low, high = np.percentile(every, amplitudes.PERCENTILES)
            bounds = float(low), float(high)
    return Preparation(window, plain.reverse, factors, bounds)
