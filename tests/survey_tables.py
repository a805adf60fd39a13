"""What a survey's amplitudes and sampling do to a network of TGS: the tables in docs/survey.md.

``python tests/survey_tables.py RUN TGS`` with the directory of a run that was trained on TGS and the folder of its
data; ``--part`` says which table.

- ``amplitude``: two surveys, the run's held-out tiles side by side, whose amplitudes are stretched as one section and
  predicted tile by tile (tiles that don't continue each other mustn't be seen together), and four synthetic lines that
  go through SEG-Y and back. Both get what a recording adds and each tile's own stretch had taken away: a gain that
  grows across, and a decay with depth.
- ``tiles``: held-out tiles sampled finer and coarser, predicted, and the result brought back.
- ``sampling``: synthetic lines sampled finer and coarser, with and without ``segy.resample=auto``.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from survey_maker import Recipe, model, write

from saltseg.data.amplitude import PERCENTILES, stretch, stretch_between
from saltseg.data.sampling import Grain, resample, resampled_shape
from saltseg.data.segy import Segy
from saltseg.data.tgs import read_tgs
from saltseg.inference import Predictor, assemble
from saltseg.prediction.sections import SurveyOptions
from saltseg.prediction.survey import predict_survey
from saltseg.run import Run

TILE = (101, 101)
ROWS = 10
#: New samples, or traces, for each old one.
FACTORS = (0.4, 0.5, 0.7, 1.4, 2.0)
#: How many times weaker the deepest sample is than the first, and stronger the last trace.
RECORDS = ((1, 1), (10, 1), (1, 10), (10, 10), (100, 10))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("tgs", type=Path)
    parser.add_argument("--part", choices=("amplitude", "tiles", "sampling"), default="amplitude")
    given = parser.parse_args()
    run = Run.finished(given.run)
    images, part = read_tgs(given.tgs), run.split().set_index("id")["split"]
    at = {name: [k for k, i in enumerate(images.ids) if part.get(i) == name] for name in ("train", "val", "test")}
    grain = Grain.measure([images.images[k] for k in at["train"]])
    print({name: round(value, 3) for name, value in grain.flat().items()})
    held = np.random.default_rng(0).permutation([*at["val"], *at["test"]])
    held = held[: len(held) // ROWS * ROWS]
    tiles, masks = [images.images[k] for k in held], [images.masks[k] == 1 for k in held]
    predictor = assemble([run], weights="last", tta="none", image_size=TILE, batch_size=32)
    if given.part == "amplitude":
        amplitude_of_tiles(predictor, tiles, masks)
        amplitude_of_lines(predictor, grain)
    elif given.part == "tiles":
        sampling_of_tiles(predictor, tiles, masks)
    else:
        sampling_of_lines(predictor, grain)


def amplitude_of_tiles(predictor: Predictor, tiles: list[np.ndarray], masks: list[np.ndarray]) -> None:
    show("TGS as it is", predictor(tiles), masks)
    grey = mosaic([tile.astype(np.float32) for tile in tiles])
    amplitude = (grey - np.median(grey)) / grey.std()
    seen = np.ones(grey.shape, bool)
    for decay, gain in RECORDS:
        made = record(amplitude, decay, gain)
        bounds = np.percentile(made, PERCENTILES)
        for how, line in {
            "window": stretch(made, seen, TILE),
            "survey": stretch_between(made, seen, *bounds),
        }.items():
            show(f"TGS, decay {decay}, gain {gain}, {how}", predictor(cut(line)), masks)


def amplitude_of_lines(predictor: Predictor, grain: Grain) -> None:
    lines, masks = synthetic(4)
    show("synthetic as it is, tile by tile", predictor([grey_of(t) for line in lines for t in cut(line)]), masks)
    for decay, gain in RECORDS:
        for how in ("window", "survey"):
            options = SurveyOptions(amplitude=how, resample="none")
            found = [through(record(line, decay, gain), options, predictor, grain) for line in lines]
            show(f"synthetic, decay {decay}, gain {gain}, {how}", [t for f in found for t in cut(f)], masks)


def sampling_of_tiles(predictor: Predictor, tiles: list[np.ndarray], masks: list[np.ndarray]) -> None:
    plain = Predictor(predictor.nets, batch_size=32, fabric=predictor.fabric, memory_format="channels_last")
    for factors in ((1, 1), *((f, 1) for f in FACTORS), *((1, f) for f in FACTORS)):
        shape = resampled_shape(TILE, factors)
        maps = plain([grey_of(resample(tile, shape, "amplitude")) for tile in tiles])
        back = [resample(probability, TILE, "probability") for probability in maps]
        show(f"TGS, {factors[0]} samples and {factors[1]} traces for one", back, masks)


def sampling_of_lines(predictor: Predictor, grain: Grain) -> None:
    lines, masks = synthetic(6)
    for factors in ((1, 1), *((f, 1) for f in FACTORS), *((1, f) for f in FACTORS)):
        for how in ("none", "auto"):
            maps = []
            for line in lines:
                sampled = resample(line, resampled_shape(line.shape, factors), "amplitude")
                found = through(sampled, SurveyOptions(resample=how), predictor, grain)
                maps += cut(resample(found, line.shape, "probability"))
            show(f"synthetic, {factors[0]} samples and {factors[1]} traces for one, {how}", maps, masks)


def synthetic(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Lines of 404 samples × 606 traces, and the masks of their tiles."""
    made = [model(1, 606, 404, seed=seed) for seed in range(count)]
    return [a[0].T for a, _ in made], [tile for _, salt in made for tile in cut(salt[0].T == 1)]


def record(amplitude: np.ndarray, decay: float, gain: float) -> np.ndarray:
    """A section, samples × traces, ``decay`` times weaker at its bottom, ``gain`` times stronger at its right."""
    down, across = (np.geomspace(1, end, n) for end, n in zip((1 / decay, gain), amplitude.shape, strict=True))
    return (amplitude * np.outer(down, across)).astype(np.float32)


def cut(section: np.ndarray) -> list[np.ndarray]:
    """A section's tiles, row after row."""
    rows, columns = (n // t for n, t in zip(section.shape, TILE, strict=True))
    return [np.ascontiguousarray(section[r * 101 : r * 101 + 101, c * 101 : c * 101 + 101])
            for r in range(rows) for c in range(columns)]  # fmt: skip


def grey_of(tile: np.ndarray) -> np.ndarray:
    """A tile stretched by itself."""
    return stretch(tile, np.ones(tile.shape, bool), TILE)


def mosaic(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles as one section of :data:`ROWS` rows, which :func:`cut` takes apart in the same order."""
    columns = len(tiles) // ROWS
    return np.block([tiles[r * columns : (r + 1) * columns] for r in range(ROWS)])


def show(what: str, maps: list[np.ndarray], truth: list[np.ndarray]) -> None:
    """IoU at 0.5, empty on empty being 1: the mean over tiles, and over those with salt; of all pixels together."""
    said = [probability > 0.5 for probability in maps]
    both = np.array([(s & t).sum() for s, t in zip(said, truth, strict=True)])
    either = np.array([(s | t).sum() for s, t in zip(said, truth, strict=True)])
    has = np.array([t.any() for t in truth])
    iou = np.where(either == 0, 1, both / np.maximum(either, 1))
    figures = f"{iou.mean():.3f} {iou[has].mean():.3f} {both.sum() / either.sum():.3f}"
    print(f"{what}: IoU, with salt, micro: {figures}; {len(iou)} tiles", flush=True)


def through(section: np.ndarray, options: SurveyOptions, predictor: Predictor, grain: Grain) -> np.ndarray:
    """Probabilities of a section, samples × traces, by way of SEG-Y."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write(path / "in.sgy", section.T[None], Recipe(line=True))
        predict_survey(path / "in.sgy", path / "out.sgy", predictor, 0.5, TILE, grain, options)
        with Segy.open(path / "out.sgy") as result:
            return result.section("inline", 0).amplitude


if __name__ == "__main__":
    main()
