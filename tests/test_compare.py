"""Verdicts on runs whose truth is known, by the real command; and what it says of runs that can't be compared."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from compared import fake_run
from runs import call, failure

from saltseg import compare
from saltseg.comparison.arms import find, group
from saltseg.comparison.scored import Scored
from saltseg.errors import SaltsegError
from saltseg.run import Run

BY_HAND = {"data": {"_target_": "saltseg.data.tgs.TGS", "root": "nowhere"}}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Three seeds of two networks; one finds every top of salt three samples too deep, the other one."""
    top = tmp_path_factory.mktemp("recipes")
    networks = {"resnet18": 3, "resnet34": 1}
    return {m: [fake_run(top / f"{m}_{s}", model=m, down=d, seed=s) for s in range(3)] for m, d in networks.items()}


def compared(directory, runs, *overrides):
    """What the command wrote of these runs."""
    call(compare.main, f"runs=[{','.join(map(str, runs))}]", f"hydra.run.dir={directory}", *overrides)
    return pd.read_csv(directory / "summary.csv"), pd.read_csv(directory / "differences.csv")


def arms_of(*runs, split=None):
    return group(find(map(str, runs))[0], split)


def test_recipes_of_three_seeds_are_told_apart(recipes, tmp_path, capfd):
    table, pairs = compared(tmp_path, [*recipes["resnet18"], *recipes["resnet34"]])
    assert table["arm"].tolist() == ["resnet18", "resnet34"]
    assert table["seeds"].tolist() == table["trainings"].tolist() == [3, 3]
    (pair,) = pairs.to_dict("records")
    assert (pair["first"], pair["second"], pair["images"]) == ("resnet34", "resnet18", 30)
    assert 0 < pair["low"] < pair["difference"] < pair["high"]
    assert pair["shown"]
    assert "resnet34 is better" in pair["sentence"]
    assert "checkpoint" not in pair["sentence"]
    said = capfd.readouterr().out.replace("\n", " ")
    assert pair["sentence"] in said
    sections = pd.read_csv(recipes["resnet18"][0] / "predictions.csv").query("split == 'test'")["group"]
    assert f"only {sections.nunique()} groups of images" in said
    assert {f.name for f in tmp_path.iterdir()} == {
        "summary.csv", "differences.csv", "report.html", "compare.log", ".hydra",
    }  # fmt: skip


def test_means_are_those_of_the_runs(recipes, tmp_path):
    run = Run(recipes["resnet18"][0])
    metrics = run.metrics()
    for part, overrides in {"test": [], "val": ["split=val"], "heldout": ["split=heldout"]}.items():
        table, pairs = compared(tmp_path / part, [run.path], *overrides)
        (row,) = table.to_dict("records")
        assert pairs.empty
        assert row["low"] < row["mean"] < row["high"]
        assert row["mean"] == pytest.approx(metrics[f"{part}/iou"])
        assert row["mean_at_best"] == pytest.approx(metrics[f"{part}_best/iou"])
        for score in ("dice", "map", "iou_salt", "empty_correct"):
            assert row[score] == pytest.approx(metrics[f"{part}/{score}"])


@pytest.mark.parametrize("metric", ["dice", "map", "iou_salt", "empty_correct"])
def test_any_score_of_single_images_can_be_judged(recipes, tmp_path, metric):
    table, _ = compared(tmp_path, recipes["resnet18"][:1], f"metric={metric}")
    assert table["mean"][0] == pytest.approx(Run(recipes["resnet18"][0]).metrics()[f"test/{metric}"])


def test_a_copy_of_a_run_differs_by_exactly_nothing(recipes, tmp_path):
    copy = shutil.copytree(recipes["resnet18"][0], tmp_path / "copy")
    table, pairs = compared(tmp_path / "out", [recipes["resnet18"][0], copy])
    (pair,) = pairs.to_dict("records")
    assert (pair["difference"], pair["low"], pair["high"], pair["p"]) == (0, 0, 0, 1)
    assert pair["sentence"].endswith("= +0.000 IoU [+0.000, +0.000], 30 images: no difference shown between these two "
                                     "checkpoints.")  # fmt: skip
    assert table["arm"].tolist() == ["resnet18_0", "copy"]


def test_surfaces_are_as_far_off_as_they_were_moved(tmp_path):
    runs = [fake_run(tmp_path / f"by{d}", model=f"by{d}", down=d, noise=0.0) for d in (0, 3)]
    table, _ = compared(tmp_path / "out", runs)
    for surface in ("top_median", "base_median"):
        assert table[surface].tolist() == [0, 3]
    assert table["hd95_median"].tolist() == [0, pytest.approx(3, abs=0.5)]
    assert (table["ece"] < 0.11).all()  # called 10% and 90%, and always right


def test_folds_are_joined_out_of_fold(tmp_path):
    runs = [
        fake_run(tmp_path / f"{model}_{fold}", model=model, down=down, folds=3, fold=fold)
        for model, down in (("resnet18", 3), ("resnet34", 1))
        for fold in range(3)
    ]
    arms = arms_of(*runs)
    assert [arm.name for arm in arms] == ["resnet18", "resnet34"]
    dealt = pd.read_csv(runs[0] / "split.csv", dtype={"id": str}).query("fold >= 0")
    for arm in arms:
        (table,) = arm.tables
        assert sorted(table.index) == sorted(dealt["id"])
        assert (table["split"] == "val").all()
    alone = pd.concat([pd.read_csv(r / "predictions.csv", dtype={"id": str}).query("split == 'val'") for r in runs[3:]])
    assert arms[1].sample("iou").scores.mean() == pytest.approx(alone["iou"].mean())

    table, pairs = compared(tmp_path / "out", runs)
    assert table["folds"].tolist() == [3, 3]
    assert pairs["images"].tolist() == [len(dealt)]
    assert "resnet34 is better" in pairs["sentence"][0]
    assert "the checkpoints of these two" in pairs["sentence"][0]  # one seed is no recipe
    with pytest.raises(SaltsegError, match="not scored on the same images"):
        arms_of(*runs[:-1])
    with pytest.raises(SaltsegError, match="out of their folds"):
        arms_of(*runs, split="test")


def test_a_sweep_is_read_without_what_failed(tmp_path, capfd):
    sweep = tmp_path / "sweep"
    for k, (model, threshold) in enumerate([(m, t) for m in ("resnet18", "resnet34") for t in (0.3, 0.5)]):
        trained_by = f"{k // 2 * 2}_{model}"
        fake_run(sweep / f"{k}_{model}", model=model, threshold=threshold, trained_by=trained_by, down=k // 2)
    failed = Run(shutil.copytree(sweep / "0_resnet18", sweep / "4_broken"))
    failed.write_metrics({"status": "failed", "error": "RuntimeError: out of memory"})
    (shutil.copytree(sweep / "0_resnet18", sweep / "5_killed") / "metrics.json").unlink()

    call(compare.main, f"runs={sweep}", f"hydra.run.dir={tmp_path / 'out'}")
    said = capfd.readouterr().out
    assert "4_broken is left out: it failed (RuntimeError: out of memory)." in said
    assert "5_killed is left out: it did not finish." in said
    table, pairs = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("summary", "differences"))
    assert table["arm"].tolist() == [f"resnet{m}, threshold={t}" for m in (18, 34) for t in (0.3, 0.5)]
    assert len(pairs) == 6
    assert (pairs["p_holm"] >= pairs["p"]).all()
    same = pairs["first"].str.split(",").str[0] == pairs["second"].str.split(",").str[0]
    assert pairs["sentence"].str.contains("of the same weights").tolist() == same.tolist()


def test_a_baseline_is_what_others_are_held_against(recipes, tmp_path, capfd):
    third = fake_run(tmp_path / "third", model="resnet50", down=5)
    runs = [recipes["resnet18"][0], recipes["resnet34"][0], third]
    for name, baseline in {"name": "resnet18", "directory": runs[0]}.items():
        _, pairs = compared(tmp_path / name, runs, f"baseline={baseline}")
        assert pairs["second"].tolist() == ["resnet18", "resnet18"]
        assert sorted(pairs["first"]) == ["resnet34", "resnet50"]
    said = failure(
        capfd, compare.main, f"runs=[{runs[0]},{runs[1]}]", "baseline=resnet81", f"hydra.run.dir={tmp_path / 'no'}"
    )
    assert "baseline=resnet81" in said
    assert "'resnet18'" in said


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{}, {"seed": 1}], ["resnet18_0"]),
        ([{"optimizer": {"lr": 0.1}}, {"optimizer": {"lr": 0.01}}], ["lr=0.1", "lr=0.01"]),
        (
            [{"choices": {"loss": "bce"}, "loss": {"a": 1}}, {"choices": {"loss": "dice"}, "tta": "hflip"}],
            ["bce", "dice"],
        ),
        (
            [
                {"choices": {"experiment": e, "model": m}, "model": {"arch": m}, "threshold": t}
                for e, m in (("article", "resnet18"), ("pretrained", "lite0"))
                for t in (0.4, 0.5)
            ],
            [f"{e}, threshold={t}" for e in ("article", "pretrained") for t in (0.4, 0.5)],
        ),
        ([{"logger": {"wandb": {}}, "data": {"root": "here"}}, {"seed": 2, "data": {"root": "there"}}], ["resnet18_0"]),
    ],
)
def test_arms_are_named_by_what_differs(recipes, tmp_path, settings, names):
    runs = []
    for k, changed in enumerate(settings):
        run = Run(shutil.copytree(recipes["resnet18"][0], tmp_path / f"resnet18_{k}"))
        run.write_config({"seed": 0, "threshold": 0.5, **changed})
        runs.append(run.path)
    assert [arm.name for arm in arms_of(*runs)] == names


def test_without_scores_npz_there_is_the_table_and_what_is_left_out(recipes, tmp_path, capfd):
    bare = shutil.copytree(recipes["resnet18"][0], tmp_path / "bare")
    (bare / "scores.npz").unlink()
    table, pairs = compared(tmp_path / "out", [bare, recipes["resnet34"][0]])
    assert len(pairs) == 1
    assert table["mean"].notna().all()
    assert table["mean_at_best"].isna().all()
    assert "No scores.npz in bare: " in capfd.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No scores.npz in bare: " in page
    assert "What an interpreter asks" not in page


def test_runs_from_before_there_was_uncertainty_are_read(recipes, tmp_path):
    old = shutil.copytree(recipes["resnet18"][0], tmp_path / "old")
    columns = ["uncertainty", "boundary"]
    pd.read_csv(old / "predictions.csv", dtype=str).drop(columns=columns).to_csv(old / "predictions.csv", index=False)
    new = Scored.read(Run(recipes["resnet18"][0])).table
    pd.testing.assert_frame_equal(Scored.read(Run(old)).table, new.drop(columns=columns))


def test_the_truth_comes_from_the_run_or_from_the_data_or_is_left_out(tmp_path, capfd):
    kept = fake_run(tmp_path / "kept", settings=BY_HAND)  # the data isn't there any more
    old = fake_run(tmp_path / "old", leave_out=("salt", "labelled"))
    lost = fake_run(tmp_path / "lost", leave_out=("salt", "labelled"), settings=BY_HAND)
    found = {run.name: compared(tmp_path / f"of_{run.name}", [run])[0] for run in (kept, old, lost)}
    pd.testing.assert_frame_equal(found["kept"].drop(columns="arm"), found["old"].drop(columns="arm"))
    assert "top_median" in found["kept"]
    assert "top_median" not in found["lost"]
    said = capfd.readouterr().out
    assert said.count("without their amplitudes") == 2
    assert said.count("errors of surfaces and calibration are left out") == 1


def edit(name, change):
    """A change of one file of a run, of its text or of its table."""

    def apply(run):
        file = run / name
        if name.endswith(".csv"):
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            change(table).to_csv(file, index=False)
        else:
            file.write_bytes(change(file.read_bytes()))

    return apply


def set_cell(column, value):
    def change(table):
        table.loc[3, column] = value
        return table

    return change


def set_metric(**changed):
    return lambda text: json.dumps({**json.loads(text), **changed}).encode()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, ["does not exist"]),
        (lambda run: (run / "config.yaml").unlink(), ["is not a run", "config.yaml"]),
        (lambda run: (run / "metrics.json").unlink(), ["did not finish", "Resume"]),
        (edit("metrics.json", set_metric(status="interrupted")), ["did not finish"]),
        (edit("metrics.json", lambda text: text[:100]), ["metrics.json", "not JSON"]),
        (edit("metrics.json", set_metric(threshold="half")), ["metrics.json", "threshold", "half"]),
        (edit("metrics.json", set_metric(dataset="tgs")), ["dataset", "synthetic", "tgs"]),
        (lambda run: (run / "predictions.csv").unlink(), ["predictions.csv is missing"]),
        (lambda run: (run / "split.csv").unlink(), ["split.csv is missing"]),
        (edit("predictions.csv", lambda t: t.drop(index=5)), ["predictions.csv", "1 are missing"]),
        (edit("predictions.csv", lambda t: t.drop(columns="ap")), ["predictions.csv", "no column ap"]),
        (edit("predictions.csv", set_cell("id", "other")), ["predictions.csv", "1 are missing, 1 are not of it"]),
        (edit("predictions.csv", set_cell("iou", "good")), ["predictions.csv", "iou='good'", "0 to 1"]),
        (edit("predictions.csv", set_cell("iou", "1.5")), ["predictions.csv", "iou"]),
        (edit("predictions.csv", set_cell("iou", "0.123")), ["predictions.csv", "mean iou", "metrics.json"]),
        (edit("predictions.csv", lambda t: pd.concat([t, t[:1]])), ["predictions.csv", "twice"]),
        (edit("scores.npz", lambda content: content[:1000]), ["scores.npz", "can't be read"]),
        (lambda run: np.savez(run / "scores.npz", id=np.array(["a"])), ["scores.npz", "has no"]),
    ],
)
def test_a_run_that_was_changed_is_one_clear_message(recipes, tmp_path, capfd, spoil, said):
    run = shutil.copytree(recipes["resnet34"][0], tmp_path / "run")
    spoil(run)
    out = tmp_path / "out"
    shown = failure(capfd, compare.main, f"runs=[{recipes['resnet18'][0]},{run}]", f"hydra.run.dir={out}")
    assert all(word in shown for word in said), shown
    assert not list(out.glob("*.csv")) + list(out.glob("*.html"))


def test_runs_of_other_images_or_labels_are_refused(recipes, tmp_path):
    first = recipes["resnet18"][0]
    with pytest.raises(SaltsegError, match=r"not scored on the same images|different labels"):
        arms_of(first, fake_run(tmp_path / "other", model="resnet34", data_seed=1))
    relabelled = shutil.copytree(recipes["resnet34"][0], tmp_path / "relabelled")
    table = pd.read_csv(relabelled / "predictions.csv", dtype={"id": str})
    table["salt"] = table["salt"].where(table["salt"] == 0, 0.5)
    table.to_csv(relabelled / "predictions.csv", index=False)
    with pytest.raises(SaltsegError, match="different labels of"):
        arms_of(first, relabelled)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["runs must be given"]),
        (["runs=[]"], ["runs"]),
        (["runs=nowhere"], ["runs: nowhere does not exist"]),
        (["runs=nowhere", "metric=iuo"], ["metric=iuo", "'iou'"]),
        (["runs=nowhere", "metric=micro_iou"], ["metric=micro_iou"]),
        (["runs=nowhere", "split=train"], ["split=train", "test"]),
        (["runs=nowhere", "basline=a"], ["basline", "'baseline'"]),
    ],
)
def test_a_call_that_makes_no_sense_names_the_key(capfd, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    shown = failure(capfd, compare.main, *arguments, f"hydra.run.dir={tmp_path / 'out'}")
    assert all(word in shown for word in said), shown


def test_a_sweep_in_which_nothing_finished_is_an_error(recipes, tmp_path, capfd):
    job = shutil.copytree(recipes["resnet18"][0], tmp_path / "sweep" / "0_job")
    (job / "metrics.json").unlink()
    said = failure(capfd, compare.main, f"runs={tmp_path / 'sweep'}", f"hydra.run.dir={tmp_path / 'out'}")
    assert "no job of the sweep" in said
    assert "0_job" in said
