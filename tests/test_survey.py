"""From a SEG-Y survey to its salt: the same by any way, memory of a section, null where nothing was measured."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import grey_closing
from survey_maker import Recipe, coordinates, model, recorded, write

from saltseg.data.sampling import Grain
from saltseg.data.segy import Segy
from saltseg.errors import SaltsegError
from saltseg.prediction.bodies import Bodies, holes, surfaces
from saltseg.prediction.sections import SurveyOptions, prepare
from saltseg.prediction.survey import predict_survey

TILE = (41, 31)
SHAPE = (14, 50, 90)  # inlines, crosslines, samples
GRAIN = Grain((0.02, 0.046, 0.14), (0.01, 0.034, 0.1))
Maps = list[np.ndarray]


def brightness(images: Sequence[np.ndarray]) -> Maps:
    """A network that takes grey for probability."""
    return [image.astype(np.float32) / 255 for image in images]


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(
    path: Path,
    samples: np.ndarray,
    recipe: Recipe = Recipe(),  # noqa: B008
    predictor: Any = brightness,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    """Writes a survey, predicts it, and gives the row and the result."""
    path.mkdir(exist_ok=True)
    write(path / "in.sgy", samples, recipe)
    given = SurveyOptions(**{"resample": "none", "format": "ieee", **options})
    return predict(path, predictor, given), path / "out.sgy"


def predict(path: Path, predictor: Any, options: SurveyOptions, threshold: float = 0.5) -> dict[str, Any]:
    return predict_survey(path / "in.sgy", path / "out.sgy", predictor, threshold, TILE, GRAIN, options)


def volume(path: Path) -> np.ndarray:
    """Inlines × crosslines × samples of a whole cube."""
    with Segy.open(path) as file:
        return np.stack([file.section("inline", n).amplitude.T for n in file.numbers("inline")])


# --- the way there and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["inline", "crossline", "shuffled"])
def test_a_pointwise_predictor_gives_the_same_along_inlines_and_crosslines(tmp_path: Path, order: str) -> None:
    samples = noise()
    found = {}
    for direction in ("inline", "crossline", "both"):
        row, out = run(
            tmp_path / direction, samples, Recipe(order=order), amplitude="survey", direction=direction
        )  # fmt: skip
        found[direction] = volume(out)
        assert row["live"] == 1
        assert row["probability"] == pytest.approx(found[direction].mean(), abs=1e-6)
        assert row["salt"] == pytest.approx((found[direction] > 0.5).mean())
    assert found["inline"].shape == SHAPE
    # The percentiles are of other sections, which is all that differs.
    np.testing.assert_allclose(found["inline"], found["crossline"], atol=0.03)
    np.testing.assert_allclose(found["both"], (found["inline"] + found["crossline"]) / 2, atol=1e-6)
    low, high = np.percentile(samples, (0.5, 99.5))
    np.testing.assert_allclose(found["inline"], np.clip((samples - low) / (high - low), 0, 1), atol=0.02)


def test_irregular_surveys_keep_every_trace_in_its_place(tmp_path: Path) -> None:
    samples = noise()
    recipe = Recipe(order="shuffled", missing=0.1, dead=0.05)
    places = write(tmp_path / "in.sgy", samples, recipe)
    predict(tmp_path, brightness, SurveyOptions(resample="none", amplitude="survey", direction="both", smooth=0))
    low, high = np.percentile(samples, (0.5, 99.5))
    expected = np.clip((samples - low) / (high - low), 0, 1)[places.inline, places.crossline]
    with Segy.open(tmp_path / "out.sgy") as file:
        for number in file.numbers("inline"):
            section = file.section("inline", number)
            dead = places.dead[section.traces]
            assert (section.amplitude[:, dead] == -1).all()
            np.testing.assert_allclose(section.amplitude.T[~dead], expected[section.traces][~dead], atol=0.05)


def test_polarity_is_turned_round(tmp_path: Path) -> None:
    samples = noise()
    _, plain = run(tmp_path / "a", samples)
    _, turned = run(tmp_path / "b", -samples, polarity="reversed")
    np.testing.assert_array_equal(volume(plain), volume(turned))


def test_dead_mute_water_and_padding_get_null(tmp_path: Path) -> None:
    samples = np.sign(noise()) * (0.5 + np.abs(noise()))
    samples[3, :, :30] = 0
    samples[4, :, :20] *= 0.001
    samples[5, 7, 60:] = 0
    samples[6, 8] = 0
    samples[7, 9, 40] = np.nan
    row, out = run(tmp_path, samples, Recipe(format=5), null=-999.25, mask=True, points=True, direction="both")
    null = np.zeros(SHAPE, bool)
    null[3, :, :30] = null[4, :, :20] = null[5, 7, 60:] = null[6, 8] = null[7, 9, 40] = True
    for file in (out, tmp_path / "out_mask.sgy"):
        np.testing.assert_array_equal(volume(file) == -999.25, null)
        assert b"NULL -999.25" in file.read_bytes()[:3200].decode("cp037").encode()
    assert set(np.unique(volume(tmp_path / "out_mask.sgy"))) == {-999.25, 0, 1}
    assert row["live"] == pytest.approx(1 - null.mean())
    seen = volume(out)[~null]
    assert row["probability"] == pytest.approx(seen.mean(), rel=1e-5)
    np.testing.assert_array_equal(volume(tmp_path / "out_mask.sgy")[~null], seen > 0.5)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_survey_with_nothing_in_it(tmp_path: Path, value: float) -> None:
    options = {"mask": True, "points": True, "resample": "auto", "amplitude": "survey"}
    row, out = run(tmp_path, np.full(SHAPE, value, np.float32), **options)
    assert (volume(out) == -1).all()
    assert (row["salt"], row["live"], row["bodies"]) == (0, 0, 0)
    assert len(pd.read_csv(tmp_path / "out_points.csv")) == 0


def test_resampling_comes_back_to_the_shape_of_the_survey(tmp_path: Path) -> None:
    """A survey of 0.12 cycles a sample is seen 2.6 times finer, and its bodies stay where they are."""
    z = np.arange(300)[:, None]
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, 200).cumsum() / 9
    line = np.cos(2 * np.pi * 0.12 * z + phase).astype(np.float32)
    line[120:180, 60:140] *= 0.01
    seen = []

    def quiet(images: Sequence[np.ndarray]) -> Maps:
        seen.append(images[0].shape)
        loud = [np.abs(image.astype(np.float32) - 128) for image in images]
        return [(grey_closing(size, (25, 1)) < 30).astype(np.float32) for size in loud]

    row, out = run(tmp_path, line.T[None], Recipe(line=True), quiet, resample="auto", amplitude="survey")
    vertical, _ = (float(f) for f in row["resample"].split("×"))
    assert vertical == pytest.approx(2.6, rel=0.1)
    assert seen[0][0] == round(300 * vertical)
    with Segy.open(out) as file:
        salt = file.section("inline", 0).amplitude > 0.5
    truth = np.zeros((300, 200), bool)
    truth[120:180, 60:140] = True
    assert (salt & truth).sum() / (salt | truth).sum() > 0.9


def test_auto_needs_to_know_the_training_images(tmp_path: Path) -> None:
    write(tmp_path / "in.sgy", noise(), Recipe())
    with Segy.open(tmp_path / "in.sgy") as file, pytest.raises(SaltsegError, match=r"resample=auto.*resample=none"):
        prepare(file, "inline", TILE, None, SurveyOptions())


def test_smoothing_runs_across_slices(tmp_path: Path) -> None:
    """A single bright inline spreads over its neighbours as a Gaussian does, and no further than 4 deviations."""
    samples = np.tile(np.where(np.arange(SHAPE[2]) % 2, 1, -1).astype(np.float32), (*SHAPE[:2], 1))

    def seventh(images: Sequence[np.ndarray]) -> Maps:
        seventh.calls += 1  # type: ignore[attr-defined]
        return [np.full(i.shape, float(seventh.calls == 7), np.float32) for i in images]  # type: ignore[attr-defined]

    for direction, axis in (("inline", 0), ("crossline", 1)):
        seventh.calls = 0  # type: ignore[attr-defined]
        _, out = run(tmp_path / direction, samples, predictor=seventh, direction=direction, smooth=1.0)
        line = np.moveaxis(volume(out), axis, 0)
        assert np.ptp(line, axis=(1, 2)).max() < 1e-6
        weights = np.exp(-0.5 * np.arange(-6, SHAPE[axis] - 6) ** 2.0)
        weights[np.abs(np.arange(-6, SHAPE[axis] - 6)) > 4] = 0
        inside = slice(4, 10)  # where the kernel isn't cut off at the end
        np.testing.assert_allclose(line[inside, 0, 0], (weights / weights.sum())[inside], atol=1e-3)


# --- interruption ---------------------------------------------------------------------------------------------------


def test_what_never_began_is_in_nobodys_way(tmp_path: Path) -> None:
    write(tmp_path / "in.sgy", noise())
    for _ in range(2):
        with pytest.raises(SaltsegError, match="resample=auto"):
            predict_survey(
                tmp_path / "in.sgy", tmp_path / "out.sgy", brightness, 0.5, TILE, None, SurveyOptions()
            )  # fmt: skip
    predict(tmp_path, brightness, SurveyOptions(resample="none"))
    assert not list(tmp_path.glob(".*"))


def stops_after(sections: int) -> Callable[[Sequence[np.ndarray]], Maps]:
    left = iter(range(sections))

    def predictor(images: Sequence[np.ndarray]) -> Maps:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return brightness(images)

    return predictor


def test_an_interrupted_prediction_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    samples = noise()
    options = {"direction": "both", "mask": True, "points": True, "format": "ibm"}
    row, whole = run(tmp_path / "whole", samples, **options)
    part, settings = tmp_path / "part", SurveyOptions(resample="none", **options)
    part.mkdir()
    write(part / "in.sgy", samples)
    for stop in (5, 20):  # within the inlines, then within the crosslines
        with pytest.raises(KeyboardInterrupt, match="are done"):
            predict(part, stops_after(stop), settings)
        assert sorted(p.name for p in part.glob("[!.]*")) == ["in.sgy"]
    with pytest.raises(SaltsegError, match=r"segy\.polarity was normal and is reversed"):
        predict(part, brightness, replace(settings, polarity="reversed"))
    calls = []

    def counted(images: Sequence[np.ndarray]) -> Maps:
        calls.append(1)
        return brightness(images)

    assert predict(part, counted, settings) == row
    assert len(calls) == SHAPE[0] + SHAPE[1] - 5 - 20
    names = sorted(p.name for p in whole.parent.iterdir())
    assert sorted(p.name for p in part.iterdir()) == names
    assert not [name for name in names if name.startswith(".")]
    for name in names:
        assert (part / name).read_bytes() == (whole.parent / name).read_bytes(), name


MEMORY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from survey_maker import Recipe, write
from test_survey import SurveyOptions, TILE, GRAIN, brightness, noise, predict_survey
import numpy as np
folder = Path(sys.argv[1])
for inlines in (15, 60):
    rows = noise((1, 100, 1000))
    write(folder / f"{{inlines}}.sgy", np.broadcast_to(rows, (inlines, 100, 1000)), Recipe(format=5))
    options = SurveyOptions(resample="none", direction="both", mask=True, points=True)
    predict_survey(folder / f"{{inlines}}.sgy", folder / f"{{inlines}}_out.sgy", brightness, 0.97, TILE, GRAIN, options)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_stays_flat_while_the_cube_grows_four_times(tmp_path: Path) -> None:
    """The larger one has 24 MB of samples, a section of it 0.4."""
    code = MEMORY.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    small, large = (float(line) for line in done.stdout.split())
    assert large - small < 8


# --- no seam --------------------------------------------------------------------------------------------------------


def test_steps_across_the_borders_of_windows_are_as_elsewhere(tmp_path: Path) -> None:
    amplitude, _ = model(1, 300, 260, seed=1)
    made = recorded(amplitude, decay=10)
    _, out = run(tmp_path, made, Recipe(line=True))
    with Segy.open(out) as file:
        grey = file.section("inline", 0).amplitude
    step = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    borders = np.zeros(len(step), bool)
    borders[TILE[1] - 1 :: TILE[1]] = True
    assert step[borders].mean() == pytest.approx(step[~borders].mean(), rel=0.15)


# --- bodies and surfaces --------------------------------------------------------------------------------------------


def test_surfaces_of_an_overhang(tmp_path: Path) -> None:
    """A mushroom: under its cap to the left, a second body; each run of salt has a top and a base."""
    line = np.tile(np.where(np.arange(60) % 2, 1.0, 0.2), (30, 1)).astype(np.float32)  # traces × samples
    salt = np.zeros((30, 60), bool)
    salt[5:25, 10:20] = True  # the cap
    salt[12:18, 20:] = True  # its stem, deeper than the record
    salt[6:9, 30:41] = True  # below the cap
    write(tmp_path / "in.sgy", line[None], Recipe(line=True, delay=100, interval=2000))

    predict(tmp_path, lambda _: [salt.T.astype(np.float32)], SurveyOptions(resample="none", points=True))
    points = pd.read_csv(tmp_path / "out_points.csv")
    assert list(points) == ["body_id", "surface", "inline", "crossline", "x", "y", "time"]
    at = points[points["crossline"] == 8].sort_values("time")  # CDPs count from 1: trace 7
    assert at["surface"].tolist() == ["top", "base", "top", "base"]
    assert at["time"].tolist() == [100 + 2 * k for k in (10, 19, 30, 40)]
    assert at["body_id"].tolist() == [1, 1, 2, 2]
    east, north = coordinates(0, 7)
    assert at[["x", "y"]].to_numpy() == pytest.approx(np.tile([east, north], (4, 1)), abs=0.01)
    stem = points[points["crossline"] == 15]
    assert stem["surface"].tolist() == ["top"]  # its base was not recorded
    assert len(points) == 2 * 20 + 2 * 3 - 6


def test_bodies_join_through_the_third_dimension() -> None:
    """An arch whose feet are apart in the first sections, a speck by itself, and a gap in the traces."""
    sections = np.zeros((4, 10, 12), bool)
    sections[:, 2:, 1:3] = sections[:, 2:, 8:10] = True
    sections[3, 2, 1:10] = True
    sections[0, 0, 11] = True
    across = np.arange(100, 124, 2, dtype=np.int32)
    bodies = Bodies()
    labels = [bodies.add(s, across) for s in sections[:3]]
    keep = np.arange(12) != 5
    labels.append(bodies.add(sections[3][:, keep], across[keep]))
    body = bodies.join()
    left, right = body[labels[0][5, 1]], body[labels[0][5, 8]]
    assert (left, right) == (1, 1) if sections[3][2, keep].all() else True
    assert set(body[np.concatenate([x.ravel() for x in labels])]) == {0, 1, 2}
    assert body[labels[0][0, 11]] == 2
    assert Bodies().join().tolist() == [0]


def test_holes_are_counted_and_filled(tmp_path: Path) -> None:
    salt = np.zeros((40, 40), bool)
    salt[5:35, 5:35] = True
    salt[10:15, 10:15] = salt[20, 20] = salt[30:36, 30:32] = False  # two holes and a bay
    found, count = holes(salt, np.ones((40, 40), bool))
    assert count == 2
    assert found.sum() == 26
    live = np.ones((40, 40), bool)
    live[20, 20] = False
    assert holes(salt, live)[1] == 1

    cube = np.tile(np.where(np.arange(40) % 2, 1.0, -1.0), (3, 40, 1)).astype(np.float32)
    for fill in (False, True):
        row, _ = run(
            tmp_path / str(fill), cube, predictor=lambda _: [salt.astype(np.float32)], mask=True, fill_holes=fill
        )  # fmt: skip
        assert (row["holes"], row["holes_left"], row["bodies"]) == (6, 0 if fill else 6, 1)
        mask = volume(tmp_path / str(fill) / "out_mask.sgy")
        np.testing.assert_array_equal(mask[1].T == 1, salt | found if fill else salt)


def test_surfaces_end_with_what_is_live() -> None:
    labels = np.array([[1, 0, 0], [1, 2, 0], [1, 2, 3], [0, 0, 3]])
    live = np.ones((4, 3), bool)
    live[0, 1] = False
    kind, sample, trace, part = surfaces(labels, live)
    assert list(zip(kind, sample, trace, part, strict=True)) == [(0, 2, 2, 3), (1, 2, 0, 1), (1, 2, 1, 2)]


# --- options and pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"direction": "inlines"}, r"segy\.direction=inlines.*'inline'"),
        ({"amplitude": "local"}, r"segy\.amplitude=local"),
        ({"polarity": -1}, r"segy\.polarity=-1"),
        ({"format": "IEEE"}, r"segy\.format=IEEE"),
        ({"domain": "twt"}, r"segy\.domain=twt"),
        ({"resample": "off"}, r"segy\.resample=off"),
        ({"resample": [2]}, r"segy\.resample=\[2\].*two factors"),
        ({"smooth": -1}, r"segy\.smooth=-1"),
        ({"null": 0.5}, r"segy\.null=0\.5: .*no probability"),
        ({"null": float("nan")}, r"segy\.null=nan"),
    ],
)
def test_options_that_mean_nothing(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SaltsegError, match=says):
        SurveyOptions(**wrong)


def test_pictures_of_the_middle_sections(tmp_path: Path) -> None:
    write(tmp_path / "in.sgy", noise(), Recipe())
    predict(tmp_path, brightness, SurveyOptions(resample="none"))
    drawn = sorted(p.name for p in tmp_path.glob("*.png"))
    assert drawn == ["out_crossline_2090.png", "out_inline_1008.png"]
    for name in drawn:
        assert min(Image.open(tmp_path / name).size) > 400
