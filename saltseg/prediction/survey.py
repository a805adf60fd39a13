"""From a SEG-Y survey to its salt: probabilities as SEG-Y, and if asked for mask, tops and bases; and how it looks.

Sections go through the network one at a time, each direction into a file of its own beside the result; that is what an
interrupted prediction goes on from. A second pass, quick, puts the directions together, smooths across slices, and
finds bodies. In memory are one section (a few, where it is smoothed over) and some bytes per trace.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from saltseg.data.sampling import Grain
from saltseg.data.segy import Copy, Direction, Section, Segy
from saltseg.errors import SaltsegError
from saltseg.files import write_whole
from saltseg.pictures.section_figure import draw_section
from saltseg.prediction.bodies import Bodies, Points, holes, surfaces
from saltseg.prediction.sections import Bool, Float, Predict, Preparation, SurveyOptions, prepare

Labels = NDArray[np.int64]

#: What a pass writes where there is no probability.
_NONE = -1.0


def predict_survey(
    path_in: Path,
    path_out: Path,
    predictor: Predict,
    threshold: float,
    window: tuple[int, int],
    grain: Grain | None,
    options: SurveyOptions,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the salt probability of the SEG-Y file ``path_in`` as the SEG-Y file ``path_out``, and what else is asked.

    Interrupted, it leaves hidden files beside ``path_out``, and the same call goes on with them.

    Args:
        path_in: a 2-D line or a cube, post-stack.
        path_out: replaced if it exists.
        predictor: from grey sections, 0 to 255 and of any size, to probabilities.
        threshold: a sample is salt above it.
        window: samples and traces of a training tile.
        grain: of the training images; None: not known.
        options: see there.
        about: what else the result depends on (run, weights, TTA), to be told apart when it goes on.

    Returns:
        A row about it: ``salt`` and ``probability`` (share and mean over live samples), ``live`` (share), ``bodies``,
        ``holes`` (enclosed in the salt of inlines) and ``holes_left`` (in the mask), ``resample``.

    Raises:
        SaltsegError: if the survey can't be read or the result not written, or if an interrupted prediction with
            other settings is there.
    """
    with options.open(path_in) as survey, ExitStack() as stack, _writing(path_out):
        both: list[Direction] = ["inline", "crossline"]
        directions = both if options.direction == "both" else [d for d in both if d == options.direction]
        if not survey.is_cube:
            directions = both[:1]
        passes: dict[Direction, Path] = {d: _hidden(path_out, d) for d in directions}
        journal = _hidden(path_out, "settings")
        state = Path(path_in).stat()
        settings = {
            **(about or {}),
            "input": f"{Path(path_in).resolve()}, {state.st_size} bytes of {state.st_mtime_ns}",
            "threshold": threshold,
            "window": list(window),
            **{f"segy.{name}": value for name, value in asdict(options).items()},
        }
        path_out.parent.mkdir(parents=True, exist_ok=True)
        _go_on(journal, path_out, settings)
        preparations = {d: prepare(survey, d, window, grain, options) for d in directions}
        for direction, file in passes.items():
            if not file.exists():
                _predict(survey, direction, file, preparations[direction], predictor, journal.read_text("utf-8"))
        found = {d: stack.enter_context(options.open(file)) for d, file in passes.items()}
        row = _finish(survey, found, path_out, threshold, options)
        _draw(survey, path_out, threshold, options)
    for file in (*passes.values(), journal):
        file.unlink()
    factors = dict.fromkeys(p.factors for p in preparations.values())
    return {**row, "resample": " ".join(f"{v:g}×{h:g}" for v, h in factors)}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaltsegError(
            f"{path} can't be written: {error.strerror or error}. What is done is kept, and the same command goes on."
        ) from error


def _hidden(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _go_on(journal: Path, path: Path, settings: Mapping[str, Any]) -> None:
    """Keep account of the settings; those of an interrupted prediction must be the same.

    Raises:
        SaltsegError: if they aren't.
    """
    now = json.loads(json.dumps(settings, default=str))
    begun = any(_hidden(path, f"{d}{part}").exists() for d in get_args(Direction) for part in ("", ".part"))
    if begun and journal.exists():
        before = json.loads(journal.read_text(encoding="utf-8"))
        if other := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
            listed = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in other)
            raise SaltsegError(
                f"{path}: an interrupted prediction is there, but with other settings: {listed}. Repeat that command "
                f"to go on with it, or delete {_hidden(path, '*')} to begin anew."
            )
    write_whole(journal, json.dumps(now, indent=2))


def _predict(
    survey: Segy, direction: Direction, file: Path, preparation: Preparation, predictor: Predict, settings: str
) -> None:
    """All sections of one direction through the network into ``file``; goes on where it was stopped."""
    numbers = survey.numbers(direction)
    copy = Copy(survey, file, note="SALTSEG: UNFINISHED", format="ieee", null=_NONE, resume=settings)
    with copy, tqdm(total=len(numbers), desc=f"{direction}s", unit="section", dynamic_ncols=True) as bar:
        lines = survey.inline if direction == "inline" else survey.crossline
        open_ = set(lines[~copy.written].tolist()) if survey.is_cube else {0}
        pending = [number for number in numbers if number in open_]
        bar.initial = bar.n = len(numbers) - len(pending)
        try:
            for number in pending:
                section = survey.section(direction, number)
                copy.write(section.traces, preparation.probabilities(survey, section, predictor))
                bar.update()
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                f"Stopped: {bar.n} of {len(numbers)} {direction}s are done. The same command goes on."
            ) from stop


def _finish(
    survey: Segy, found: Mapping[Direction, Segy], path: Path, threshold: float, options: SurveyOptions
) -> dict[str, Any]:
    """Put the directions together and write all that is asked for."""
    bodies, row = Bodies(), dict.fromkeys(("salt", "probability", "live", "holes", "holes_left"), 0.0)
    form: Any = options.format
    with ExitStack() as stack:
        note = f"SALTSEG: PROBABILITY OF SALT 0..1, NULL {options.null:g}, NOT AMPLITUDE"
        copies = [stack.enter_context(Copy(survey, path, note=note, format=form, null=options.null))]
        if options.mask:
            note = f"SALTSEG: SALT 1, ELSE 0, NULL {options.null:g}, NOT AMPLITUDE"
            file = path.with_name(f"{path.stem}_mask{path.suffix}")
            copies.append(stack.enter_context(Copy(survey, file, note=note, format=form, null=options.null)))
        points = Points(_hidden(path, "points")) if options.points else None
        for number in tqdm(survey.numbers("inline"), desc="writing", unit="section", dynamic_ncols=True):
            section, probability = _together(found, number, options.smooth)
            live = ~np.isnan(probability)
            salt = np.asarray(probability > threshold)
            inside, count = holes(salt, live)
            if options.fill_holes:
                salt |= inside
            row["salt"] += salt.sum()
            row["probability"] += np.nansum(probability, dtype=np.float64)
            row["live"] += live.sum()
            row["holes"] += count
            row["holes_left"] += 0 if options.fill_holes else count
            labels = bodies.add(salt, section.across)
            for copy, values in zip(copies, (probability, np.where(live, salt, np.nan)), strict=False):
                copy.write(section.traces, values.astype(np.float32))
            if points is not None:
                _add_points(points, survey, section, labels, live)
        body = bodies.join()
    if points is not None:
        points.write(path.with_name(f"{path.stem}_points.csv"), body, survey.domain)
    samples = max(row["live"], 1)
    return {
        "salt": float(row["salt"] / samples),
        "probability": float(row["probability"] / samples),
        "live": float(row["live"] / (survey.samples * survey.traces)),
        "bodies": int(body.max()),
        "holes": int(row["holes"]),
        "holes_left": int(row["holes_left"]),
    }


def _add_points(points: Points, survey: Segy, section: Section, labels: Labels, live: Bool) -> None:
    surface, sample, trace, part = surfaces(labels, live)
    trace_of_file = section.traces[trace]
    points.add(
        body=part,
        surface=surface,
        inline=survey.inline[trace_of_file],
        # A line's crossline numbers may be anything; its CDPs are what its traces are known by.
        crossline=survey.crossline[trace_of_file] if survey.is_cube else section.across[trace],
        x=survey.x[trace_of_file],
        y=survey.y[trace_of_file],
        z=survey.start + sample * survey.interval,
    )


def _together(found: Mapping[Direction, Segy], number: int, smooth: float) -> tuple[Section, Float]:
    """An inline and its probabilities, samples × traces: the mean over directions, NaN where neither has one."""
    both = []
    for direction, file in found.items():
        section = file.section("inline", number)
        values = np.where(section.amplitude < 0, np.float32(np.nan), section.amplitude)
        if smooth and file.is_cube:
            slide = _across_inlines if direction == "inline" else _across_crosslines
            values = np.where(np.isnan(values), values, slide(file, section, number, smooth))
        both.append(values)
    known = [~np.isnan(values) for values in both]
    total = np.sum([np.where(k, v, 0) for k, v in zip(known, both, strict=True)], axis=0, dtype=np.float32)
    count = np.sum(known, axis=0, dtype=np.float32)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan, np.float32), where=count > 0)
    return section, np.asarray(mean, np.float32)


def _across_inlines(file: Segy, section: Section, number: int, deviation: float) -> Float:
    """A Gaussian over the neighbouring inlines, of those samples that have a probability."""
    numbers = file.numbers("inline")
    middle, reach = numbers.index(number), round(4 * deviation)
    total, weights = (np.zeros(section.amplitude.shape, np.float32) for _ in range(2))
    for k in range(max(middle - reach, 0), min(middle + reach + 1, len(numbers))):
        other = file.section("inline", numbers[k])
        _, here, there = np.intersect1d(section.across, other.across, assume_unique=True, return_indices=True)
        values = other.amplitude[:, there]
        weight = np.exp(-0.5 * ((k - middle) / deviation) ** 2) * (values >= 0)
        total[:, here] += weight * values
        weights[:, here] += weight
    return np.asarray(total / np.maximum(weights, np.finfo(np.float32).tiny), np.float32)


def _across_crosslines(file: Segy, section: Section, number: int, deviation: float) -> Float:
    """The same over neighbouring crosslines, all of which an inline meets."""
    numbers = file.numbers("crossline")
    places = np.searchsorted(numbers, section.across)
    wide = np.full((file.samples, len(numbers)), _NONE, np.float32)
    wide[:, places] = section.amplitude
    known = (wide >= 0).astype(np.float32)
    total, weights = (
        gaussian_filter1d(v, deviation, axis=1, mode="constant", radius=round(4 * deviation))
        for v in (wide * known, known)
    )
    return np.asarray(total / np.maximum(weights, np.finfo(np.float32).tiny))[:, places]


def _draw(survey: Segy, path: Path, threshold: float, options: SurveyOptions) -> None:
    """The middle inline and crossline, or the line."""
    directions: list[Direction] = ["inline", "crossline"] if survey.is_cube else ["inline"]
    with options.open(path) as result:
        for direction in directions:
            numbers = survey.numbers(direction)
            number = numbers[len(numbers) // 2]
            section, values = survey.section(direction, number), result.section(direction, number).amplitude
            draw_section(
                section.amplitude,
                np.where((values >= 0) & (values <= 1), values, np.float32(np.nan)),
                section.across,
                path.with_name(f"{path.stem}_{direction}_{number}.png" if survey.is_cube else f"{path.stem}.png"),
                along=f"{direction} {number}" if survey.is_cube else survey.path.stem,
                across=("crossline" if direction == "inline" else "inline") if survey.is_cube else "CDP",
                start=survey.start,
                interval=survey.interval,
                domain=survey.domain,
                threshold=threshold,
            )
