"""What the README says is tried: its extensions run, its results are those of docs/results, its files are there."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from runs import tiny_run

from saltseg.config import CONF

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")
RESULTS = TOP / "docs" / "results"


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of "Extend it", as the README has them."""
    section = README.split("## Extend it")[1].split("\n## ")[0]
    names = list(dict.fromkeys(re.findall(r"`mine/([\w/]+\.(?:yaml|py))`", section)))
    blocks = re.findall(r"```(?:yaml|python)\n(.*?)```", section, re.DOTALL)
    assert len(names) == len(blocks) == 5
    folder = tmp_path_factory.mktemp("mine")
    for name, block in zip(names, blocks, strict=True):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(block, encoding="utf-8")
    (folder / "model" / "tiny.yaml").write_text((TOP / "tests/conf/model/tiny.yaml").read_text())
    return folder


@pytest.mark.parametrize(
    "choice",
    ["model=mobilenet", "loss=tversky", "augmentation=noisy", "data=stripes"],
)
def test_an_extension_of_the_readme_trains(
    choice: str, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(mine))
    # What the tiny tests override of the data would say other sizes than the example's own.
    own = ["trust=[stripes]", "data.split.train=20", "data.split.val=5", "data.split.test=5"]
    run = tiny_run(
        tmp_path / "run", "trainer.max_epochs=1", *([choice, *own] if "data" in choice else [choice]), own=mine
    )
    assert run.metrics()["status"] == "finished"
    assert run.config().choices[choice.split("=")[0]] == choice.split("=")[1]
    sys.modules.pop("stripes", None)


def test_the_results_are_those_of_the_runs() -> None:
    table = README.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    rows = {
        cells[0].strip("` "): cells[1:]
        for line in table.splitlines()
        if line.startswith("| `") and (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    assert rows
    header = next(line for line in table.splitlines() if line.startswith("| experiment"))
    columns = [c.strip() for c in header.strip("|").split("|")][1:]
    for name, cells in rows.items():
        experiment, _, at = name.partition("` at best")
        metrics = json.loads((RESULTS / experiment / "metrics.json").read_text())
        suffix = "_best" if " at best" in name else ""
        for column, cell in zip(columns, cells, strict=True):
            if match := re.fullmatch(r"(val|test) (\w+)", column):
                assert cell == f"{metrics[f'{match[1]}{suffix}/{match[2]}']:.4f}", (name, column, at)


def test_the_scores_under_both_splits_are_those_of_the_runs() -> None:
    lines = README.split("<!-- groups -->")[1].split("<!-- /groups -->")[0].strip().splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines)
    for name, cells in zip(("pretrained", "pretrained_mosaic"), rows, strict=True):
        metrics = json.loads((RESULTS / name / "metrics.json").read_text())
        assert cells == [f"{metrics[column.replace(' ', '/')]:.4f}" for column in header]


def test_kept_runs_are_whole_and_agree_with_themselves() -> None:
    for folder in (file.parent for file in RESULTS.glob("*/metrics.json")):
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["status"] == "finished"
        rows = pd.read_csv(folder / "predictions.csv")
        for part in ("val", "test"):
            assert rows.loc[rows["split"] == part, "iou"].mean() == pytest.approx(metrics[f"{part}/iou"])
            assert rows.loc[rows["split"] == part, "ap"].mean() == pytest.approx(metrics[f"{part}/map"])
        split = pd.read_csv(folder / "split.csv")
        assert split["split"].value_counts().to_dict() == {"train": 3420, "val": 380, "test": 200}
        for file in folder.iterdir():
            assert file.suffix in (".csv", ".json", ".yaml")


def test_every_picture_and_choice_that_is_named_is_there() -> None:
    for picture in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (TOP / picture).exists(), picture
    for group in ("model", "loss", "augmentation", "experiment"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
        for choice in (p.stem for p in (CONF / group).glob("*.yaml")):
            assert f"`{choice}`" in row, f"{group}={choice} is not in the README"
