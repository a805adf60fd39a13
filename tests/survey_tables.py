"""How much it matters by what a survey's amplitudes are stretched: the table in docs/survey.md.

``python tests/amplitude_table.py RUN TGS`` with the directory of a run that was trained on TGS and the folder of its
data. Two surveys: the run's held-out tiles side by side, whose amplitudes are stretched as one section and predicted
tile by tile (tiles that don't continue each other mustn't be seen together); and four synthetic lines that go through
SEG-Y and back. Both get what a recording adds and each tile's own stretch had taken away: a gain that grows across, and
a decay with depth.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from survey_maker import Recipe, model, write

from saltseg.data.amplitude import PERCENTILES, stretch, stretch_between
from saltseg.data.sampling import Grain
from saltseg.data.segy import Segy
from saltseg.data.tgs import read_tgs
from saltseg.inference import Predictor, assemble
from saltseg.run import Run
from saltseg.sections import SurveyOptions
from saltseg.survey import predict_survey

TILE = (101, 101)
ROWS = 10
#: How many times weaker the deepest sample is than the first, and stronger the last trace.
RECORDS = ((1, 1), (10, 1), (1, 10), (10, 10), (100, 10))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("tgs", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth held-out tile")
    given = parser.parse_args()
    run = Run.finished(given.run)
    images, part = read_tgs(given.tgs), run.split().set_index("id")["split"]
    at = {name: [k for k, i in enumerate(images.ids) if part.get(i) == name] for name in ("train", "val", "test")}
    grain = Grain.measure([images.images[k] for k in at["train"]])
    print({name: round(value, 3) for name, value in grain.flat().items()})
    held = np.random.default_rng(0).permutation([*at["val"], *at["test"]])[:: given.every]
    held = held[: len(held) // ROWS * ROWS]
    predictor = assemble([run], weights="last", tta="none", image_size=TILE, batch_size=32)

    tiles = [images.images[k] for k in held]
    masks = [images.masks[k] == 1 for k in held]
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

    lines = [model(1, 606, 404, seed=seed) for seed in range(4)]
    masks = [tile for _, salt in lines for tile in cut(salt[0].T == 1)]
    one_by_one = [grey_of(tile) for line, _ in lines for tile in cut(line[0].T)]
    show("synthetic as it is, tile by tile", predictor(one_by_one), masks)
    for decay, gain in RECORDS:
        for how in ("window", "survey"):
            found = [through(record(line[0].T, decay, gain), how, predictor, grain) for line, _ in lines]
            show(f"synthetic, decay {decay}, gain {gain}, {how}", [t for f in found for t in cut(f)], masks)


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


def through(section: np.ndarray, how: str, predictor: Predictor, grain: Grain) -> np.ndarray:
    """Probabilities of a section, samples × traces, by way of SEG-Y."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write(path / "in.sgy", section.T[None], Recipe(line=True))
        options = SurveyOptions(amplitude=how, resample="none")
        predict_survey(path / "in.sgy", path / "out.sgy", predictor, 0.5, TILE, grain, options)
        with Segy.open(path / "out.sgy") as result:
            return result.section("inline", 0).amplitude


if __name__ == "__main__":
    main()
