"""Probabilities that are what they say, and whether what is uncertain is what goes wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from saltseg.calibration import NO_TRANSFER, expected_calibration_error, fit_temperature, pooled, temper
from saltseg.data.images import IGNORE
from saltseg.retention import KEPT, curves, flat, kept_means, retention
from saltseg.uncertainty import boundary_length, disagreement, entropy, mutual_information, uncertainty

rng = np.random.default_rng(0)
LOGITS = 2 * rng.normal(size=(8, 200, 250))
HONEST = expit(LOGITS)
SALT = (rng.random(HONEST.shape) < HONEST).astype(np.uint8)


def sure(times: float) -> list[np.ndarray]:
    """Maps of a network whose logits are so many times as large as they should be."""
    return list(expit(times * LOGITS).astype(np.float32))


# --- temperature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0.5, 1, 2, 4])
def test_the_temperature_is_what_the_logits_were_multiplied_by(times: float) -> None:
    found = fit_temperature(sure(times), list(SALT))
    assert found == pytest.approx(times, rel=0.02)
    before, after = pooled(sure(times), SALT), pooled([temper(m, found) for m in sure(times)], SALT)
    assert expected_calibration_error(after) < 0.005
    if times != 1:
        assert expected_calibration_error(before) > 0.04


def test_temperatures_undo_each_other_and_move_nothing_across_a_half() -> None:
    p = np.linspace(0, 1, 1001, dtype=np.float32)
    np.testing.assert_allclose(temper(temper(p, 3.0), 1 / 3), p, atol=1e-6)
    for t in (0.1, 1.0, 10.0):
        tempered = temper(p, t)
        assert ((tempered > 0.5) == (p > 0.5)).all()
        assert (np.diff(tempered) >= 0).all()
        assert (tempered >= 0).all()
        assert (tempered <= 1).all()
    np.testing.assert_allclose(temper(p, 1.0), p, atol=1e-7)
    assert temper(np.array([0.9]), 2.0)[0] == pytest.approx(0.75)  # odds of 9 become odds of 3


def test_pixels_without_a_label_have_no_say() -> None:
    masks, maps = [s.copy() for s in SALT], sure(2)
    for mask, probability in zip(masks, maps, strict=True):
        mask[:100] = IGNORE
        probability[:100] = 0.999  # nonsense
    assert fit_temperature(maps, masks) == pytest.approx(2, rel=0.03)
    assert pooled(maps, masks).sum() == SALT.size / 2


def test_many_pixels_are_drawn_from_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltseg.calibration._PIXELS", 50_000)
    found = fit_temperature(sure(2), list(SALT))
    assert found == pytest.approx(2, rel=0.1)
    assert found == fit_temperature(sure(2), list(SALT))


def test_a_saturated_network_has_a_temperature() -> None:
    """Trained by Dice, a network may say nothing but 0 and 1."""
    truth = rng.random((4, 100, 100)) < 0.5
    wrong = rng.random(truth.shape) < 0.1
    maps = list((truth ^ wrong).astype(np.float32))
    found = fit_temperature(maps, list(truth.astype(np.uint8)))
    np.testing.assert_allclose(temper(np.array([0.0, 1.0]), found), [wrong.mean(), 1 - wrong.mean()], atol=0.001)
    before = pooled(maps, truth.astype(np.uint8))
    after = pooled([temper(m, found) for m in maps], truth.astype(np.uint8))
    assert expected_calibration_error(after) < 0.01 < 0.09 < expected_calibration_error(before)


def test_the_ends_are_finite() -> None:
    mask = (np.arange(100).reshape(10, 10) % 2).astype(np.uint8)
    right, wrong, blank = mask.astype(np.float32), 1 - mask.astype(np.float32), np.full_like(mask, IGNORE)
    assert fit_temperature([right], [mask]) == pytest.approx(0.02, rel=0.15)
    assert fit_temperature([wrong], [mask]) == pytest.approx(50, rel=0.15)
    assert fit_temperature([right], [blank]) == 1
    assert fit_temperature([], []) == 1


# --- one prediction -------------------------------------------------------------------------------------------------


def test_entropy_in_bits() -> None:
    found = entropy(np.array([[0.0, 0.5, 1.0], [0.11, 0.89, 0.25]], np.float32))
    expected = [[0, 1, 0], [0.4999, 0.4999, 2 - 0.75 * np.log2(3)]]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(entropy(np.array([0.9]), 2.0), entropy(np.array([0.75])), atol=1e-6)
    assert entropy(np.array([0.9]), 2.0) > entropy(np.array([0.9])) > entropy(np.array([0.9]), 0.5)


def test_networks_that_agree_have_nothing_to_dispute() -> None:
    one = rng.random((20, 30)).astype(np.float32)
    np.testing.assert_allclose(mutual_information(np.stack([one] * 3)), 0, atol=1e-6)
    certain = np.stack([np.zeros_like(one), np.ones_like(one)] * 2)
    np.testing.assert_allclose(mutual_information(certain), 1)
    members = rng.random((5, 20, 30)).astype(np.float32)
    found = mutual_information(members)
    assert ((found > 0) & (found < 1)).all()
    np.testing.assert_allclose(disagreement(members.mean(0), entropy(members).mean(0)), found)
    with pytest.raises(ValueError, match="3 or more independently trained networks, there are 2"):
        mutual_information(members[:2])


def expected_dice(probability: np.ndarray, threshold: float, levels: int = 20_000) -> float:
    """By going through the levels."""
    predicted = probability > threshold
    dice = []
    for level in (np.arange(levels) + 0.5) / levels:
        true = probability > level
        both = predicted.sum() + true.sum()
        dice.append(2 * (predicted & true).sum() / both if both else 1.0)
    return float(np.mean(dice))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.99])
def test_an_image_is_as_uncertain_as_the_dice_that_it_expects_to_miss(threshold: float) -> None:
    probability = rng.random((6, 7)).astype(np.float32)
    assert uncertainty(probability, threshold) == pytest.approx(1 - expected_dice(probability, threshold), abs=1e-3)
    tempered = uncertainty(probability, 0.5, temperature=2.0)
    assert tempered == pytest.approx(1 - expected_dice(temper(probability, 2.0), 0.5), abs=1e-3)


def test_uncertainty_by_hand() -> None:
    def of(*values: float, threshold: float = 0.5) -> float:
        return uncertainty(np.array([values], np.float32), threshold)

    assert of(0, 0, 0, 0) == pytest.approx(0, abs=1e-6)
    assert of(1, 1, 1, 1) == pytest.approx(0, abs=1e-6)
    assert of(0, 1, 1, 0) == pytest.approx(0, abs=1e-6)
    assert of(0, 0.3, 0.2, 0) == pytest.approx(0.3, abs=1e-6)  # empty: as likely as not to have missed something
    assert of(0, 0.9, 0, 0) == pytest.approx(0.1, abs=1e-6)  # one pixel: right or nothing there
    assert of(0.6, 0.9) == pytest.approx(0.1 + 0.3 * (1 - 2 / 3), abs=1e-6)
    assert of(0.6, 0.9, threshold=0.7) == pytest.approx(0.1 + 0.6 * (1 - 2 / 3), abs=1e-6)
    assert uncertainty(np.empty((0, 0), np.float32), 0.5) == 0


def test_a_ragged_flank_is_less_certain_than_a_sharp_one_and_a_faint_body_less_than_either() -> None:
    depth = np.arange(101)[:, None] * np.ones((1, 101))
    sharp, ragged = expit((depth - 50) / 1), expit((depth - 50) / 10)
    faint = 0.55 * (depth > 50)
    certainty = [uncertainty(p.astype(np.float32), 0.5) for p in (sharp, ragged, faint)]
    assert certainty == sorted(certainty)
    assert certainty[0] < 0.05 < certainty[1] < 0.3 < certainty[2]


def test_boundary_length() -> None:
    salt = np.zeros((10, 12), bool)
    assert boundary_length(salt) == boundary_length(~salt) == 0
    salt[3:5, 4:9] = True
    assert boundary_length(salt) == 2 * (2 + 5)
    salt[:] = False
    salt[5:] = True  # the image's edge is no boundary
    assert boundary_length(salt) == 12


# --- what it is worth -----------------------------------------------------------------------------------------------


def test_dropping_by_hand() -> None:
    once = np.ones((1, 4), np.int64)
    scores, ranking = np.array([0.1, 0.9, 0.5, 0.7]), np.array([4.0, 1, 3, 2])
    means = kept_means(scores, ranking, [1, 0.75, 0.5, 0.25, 0.625], once)[0]
    np.testing.assert_allclose(means, [0.55, 0.7, 0.8, 0.9, (0.9 + 0.7 + 0.5 * 0.5) / 2.5])
    # Equal ones are dropped in part, whatever their order; all equal is no ranking at all.
    np.testing.assert_allclose(kept_means(scores, np.array([2.0, 1, 2, 1]), [0.75], once), (0.9 + 0.7 + 0.3) / 3)
    np.testing.assert_allclose(kept_means(scores, np.zeros(4), [0.25], once), 0.55)
    # An image that was drawn twice is there twice.
    twice = kept_means(scores, ranking, [0.8], np.array([[0, 3, 1, 1]]))
    np.testing.assert_allclose(twice, (3 * 0.9 + 0.7) / 4)


def table(count: int = 200, known: float = 1.0, group: str = "") -> pd.DataFrame:
    """Predictions whose uncertainty knows the IoU, or a part of it, and whose boundary knows nothing."""
    draw = np.random.default_rng(1)
    iou = draw.random(count)
    return pd.DataFrame(
        {
            "id": [f"tile{k}" for k in range(count)],
            "split": np.where(np.arange(count) % 2, "val", "test"),
            "group": group,
            "iou": iou,
            "salt": np.where(np.arange(count) % 5, 0.3, 0.0),
            "uncertainty": 1 - known * iou - (1 - known) * draw.random(count),
            "boundary": draw.integers(100, size=count),
            "predicted": draw.random(count),
        }
    )


def test_retention_of_a_perfect_and_of_a_useless_ranking() -> None:
    rows = retention(table()).set_index(["split", "images", "by"])
    for images, count in (("all", 100), ("with salt", 80)):
        sure, best, worst = (rows.loc["test", images, by] for by in ("uncertainty", "perfect", "boundary"))
        assert sure["count"] == count
        assert sure["iou_kept"] == best["iou_kept"]
        assert 0.07 < sure["gain_low"] < sure["gain"] < sure["gain_high"] < 0.13  # a fifth around 0.1 from around 0.5
        assert worst["gain_low"] < 0 < worst["gain_high"]
        assert sure["over_boundary"] == pytest.approx(sure["iou_kept"] - worst["iou_kept"])
        assert sure["over_boundary_low"] > 0
        assert tuple(worst[["over_boundary", "over_boundary_low", "over_boundary_high"]]) == (0, 0, 0)
    half = retention(table(known=0.5)).set_index(["split", "images", "by"]).loc["test", "all", "uncertainty"]
    assert 0 < half["gain"] < rows.loc["test", "all", "perfect"]["gain"]


def test_the_flat_scores_are_those_of_the_table_and_of_the_curve() -> None:
    predictions = table()
    found = flat(retention(predictions))
    assert found.keys() == {
        f"{part}/{score}_kept80{by}"
        for part in ("val", "test")
        for score in ("iou", "iou_salt")
        for by in ("", "_boundary")
    }
    test = predictions[predictions["split"] == "test"]
    at = curves(test).set_index("dropped").loc[1 - KEPT :].iloc[0]
    assert found["test/iou_kept80"] == pytest.approx(at["uncertainty"])
    assert found["test/iou_kept80"] == pytest.approx(test.nsmallest(80, "uncertainty")["iou"].mean())
    assert curves(test)["uncertainty"].iloc[0] == pytest.approx(test["iou"].mean())


def test_images_of_one_section_are_no_independent_ones() -> None:
    section = np.arange(200) // 10
    alike = table().assign(iou=(section * 0.37) % 1, uncertainty=(section * 0.61) % 1)
    grouped = alike.assign(group=[f"section{s}" for s in section])
    narrow, wide = (retention(rows).query("by == 'uncertainty'") for rows in (alike, grouped))
    assert (narrow["gain"] == wide["gain"]).all()
    assert (1.5 * (narrow["gain_high"] - narrow["gain_low"]) < wide["gain_high"] - wide["gain_low"]).all()


def test_without_salt_or_with_a_single_image() -> None:
    empty = table().assign(salt=0.0)
    assert set(retention(empty)["images"]) == {"all"}
    assert not any("salt" in key for key in flat(retention(empty)))
    single = retention(table(count=1))
    assert single["gain"].abs().max() < 1e-12
    tied = retention(table().assign(uncertainty=0.0)).query("by == 'uncertainty'")  # as of a saturated network
    np.testing.assert_allclose(tied["gain"], 0, atol=1e-12)


# --- what the documentation says ------------------------------------------------------------------------------------

DOCS = Path(__file__).parent.parent / "docs"
SCORED = ("pretrained", "pretrained_hflip", "ensemble")
COLUMNS = [("val", "all"), ("val", "with salt"), ("test", "all"), ("test", "with salt")]


def gains() -> Iterator[str]:
    """The rows of the table, from the files."""
    for name in SCORED:
        found = pd.read_csv(DOCS / "results" / "uncertainty" / name / "uncertainty.csv")
        for by, rows in found.groupby("by", sort=False):
            at = rows.set_index(["split", "images"])[["gain", "gain_low", "gain_high"]]
            cells = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(*at.loc[column]) for column in COLUMNS]
            yield f"| `{name}` | {by} | {' | '.join(cells)} |".replace("-", "−")


def test_the_tables_are_those_of_the_files() -> None:
    text = (DOCS / "uncertainty.md").read_text(encoding="utf-8")
    table = text.split("<!-- gains -->")[1].split("<!-- /gains -->")[0]
    assert table.strip().splitlines()[2:] == list(gains())
    for name in SCORED:
        said = json.loads((DOCS / "results" / "uncertainty" / name / "metrics.json").read_text())
        errors = [f"{said[f'{p}/ece{t}']:.4f}" for p in ("val", "test") for t in ("", "_tempered")]
        assert f"| `{name}` | {said['temperature']:.2f} | {' | '.join(errors)} |" in text
    assert NO_TRANSFER in " ".join(text.replace("> ", "").split())


@pytest.mark.parametrize("name", SCORED)
def test_on_tgs_dropping_the_uncertain_beats_dropping_long_boundaries(name: str) -> None:
    """The claim, from what the runs predicted of each held-out image."""
    folder = DOCS / "results" / "uncertainty" / name
    found = retention(pd.read_csv(folder / "predictions.csv"))
    pd.testing.assert_frame_equal(found, pd.read_csv(folder / "uncertainty.csv"))
    sure = found[found["by"] == "uncertainty"]
    assert len(sure) == 4
    assert (sure[["gain_low", "over_boundary_low"]] > 0).all(axis=None)
