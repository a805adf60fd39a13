"""``python -m saltseg.dataset``: verify goes on after the first damage, download says what to do."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import kagglehub
import kagglehub.config
import numpy as np
import pandas as pd
import pytest
import requests
import tgs_trees as trees
from kagglehub.exceptions import KaggleApiHTTPError, UnauthenticatedError
from runs import call
from tgs_trees import IDS

from saltseg import dataset
from saltseg.data.folder import Folder
from saltseg.data.tgs import TGS, find_tgs
from saltseg.data.verify import Report, verify
from saltseg.errors import SaltsegError

# --- verify ---------------------------------------------------------------------------------------------------------


def test_whole_data_has_no_problems(tmp_path: Path) -> None:
    report = verify(TGS(str(trees.write(tmp_path, trees.zips()))))
    assert report.problems == []
    assert report.facts["images with masks"] == "4"
    assert report.facts["mask files"] == "3 of 16-bit, 1 of 8-bit"
    assert report.facts["depths"] == "50 to 959, 0 missing"
    assert report.facts["train.csv"] == "4 rows, agrees with the masks, 4 to the character"
    assert report.facts["test images"].startswith("2 of 2")
    assert report.facts["identical images"] == "0"
    assert report.facts["masks"].startswith("1 empty (25.0%), 0 with")
    assert report.facts["images in"] == "train.zip/images/"


@pytest.mark.parametrize("layout", [n for n in trees.LAYOUTS if n not in ("tables missing", "extracted in place")])
def test_every_layout_verifies(tmp_path: Path, layout: str) -> None:
    assert verify(TGS(str(trees.write(tmp_path, trees.LAYOUTS[layout]())))).problems == []


def test_everything_damaged_is_named(tmp_path: Path) -> None:
    members = trees.train_files()
    members[f"images/{IDS[0]}.png"] = members[f"images/{IDS[0]}.png"][:-40]
    members[f"masks/{IDS[1]}.png"] = trees.png(np.ones((5, 5), np.uint8))
    del members[f"masks/{IDS[2]}.png"]
    members["images/ffffffffff.png"] = trees.png(trees.image("f"))
    flipped = trees.mask(IDS[3])
    flipped[100, 0] = 0
    members[f"masks/{IDS[3]}.png"] = trees.png(flipped)
    tests = trees.test_files() | {"images/f000000000.png": b""}
    del tests["images/f000000001.png"]
    files = trees.tables() | {"train.zip": trees.zipped(members), "test.zip": trees.zipped(tests)}
    problems = verify(TGS(str(trees.write(tmp_path, files)))).problems
    expected = [
        (f"images/{IDS[0]}.png", "truncated"),
        (f"masks/{IDS[1]}.png", "5×5"),
        (f"images/{IDS[2]}.png", "no mask"),
        ("images/ffffffffff.png", "no mask"),
        (IDS[3], "differs from its RLE in train.csv in 1 of 10201 pixels"),
        ("images/f000000000.png", "truncated"),
        ("f000000001", "stands in"),
    ]
    for words in expected:
        assert any(all(w in problem for w in words) for problem in problems), words
    assert len(problems) == len(expected)


def test_damaged_zips_and_tables(tmp_path: Path) -> None:
    files = trees.zips()
    files |= {"test.zip": files["test.zip"][:200], "depths.csv": b"id,depth\n", "train.csv": b"id,rle\n"}
    problems = verify(TGS(str(trees.write(tmp_path, files)))).problems
    assert [any(word in p for p in problems) for word in ("test.zip", "depths.csv", "train.csv")] == [True] * 3
    files["train.zip"] = files["train.zip"][:200]
    with pytest.raises(SaltsegError, match=r"train\.zip is not a whole zip"):
        verify(TGS(str(trees.write(tmp_path, files))))


def test_duplicates_and_suspects_are_counted(tmp_path: Path) -> None:
    members = trees.train_files()
    for name in IDS[:2]:
        members[f"images/{name}.png"] = trees.png(np.zeros((101, 101), np.uint8))
    half = np.zeros((101, 101), np.uint8)
    half[:, 50:] = 255
    members[f"masks/{IDS[3]}.png"] = trees.png(half)
    report = verify(TGS(str(trees.write(tmp_path, {"train.zip": trees.zipped(members)}))))
    assert report.facts["identical images"] == "2, in groups of 2"
    assert report.facts["images of one value"] == "2"
    assert report.suspects == {"columns": [IDS[3]], "unlabelled": []}
    assert report.table().to_dict("list") == {"id": [IDS[3]], "kind": ["columns"]}


def test_folder_is_verified(tmp_path: Path) -> None:
    for name, size in (("a", 30), ("b", 40), ("c", 50)):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = np.random.default_rng(size).integers(1, 9, (size, size)).astype(np.uint16)
            (tmp_path / folder / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    data = Folder(str(tmp_path / "images"), str(tmp_path / "masks"))
    report = verify(data)
    assert report.problems == []
    assert report.facts["image files"] == "3 of uint16 grey"
    (tmp_path / "images/b.png").write_bytes(b"")
    (tmp_path / "masks/a.png").write_bytes((tmp_path / "masks/c.png").read_bytes())
    (tmp_path / "masks/d.png").write_bytes((tmp_path / "masks/c.png").read_bytes())
    problems = verify(data).problems
    assert len(problems) == 3
    for words in (("a.png", "30×30", "50×50"), ("b.png", "truncated"), ("d.png", "no image")):
        assert any(all(w in problem for w in words) for problem in problems), words


def test_report_lists_everything_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report({"images": "3 [of 4]"}, [f"file{k} is gone." for k in range(30)], {"columns": ["x", "y"]})
    with pytest.raises(SaltsegError, match=r"(?s)30 damaged or missing.*file19 is gone\.\n.*and 10 more"):
        dataset.report_on(report, tmp_path)
    assert "3 [of 4]" in capsys.readouterr().out
    assert (tmp_path / "problems.txt").read_text().count("\n") == 30
    assert pd.read_csv(tmp_path / "suspects.csv")["id"].tolist() == ["x", "y"]


# --- the command ----------------------------------------------------------------------------------------------------


def command(directory: Path, *overrides: str) -> None:
    call(dataset.main, *overrides, f"hydra.run.dir={directory}")


def test_show_draws_samples(tmp_path: Path) -> None:
    root = trees.write(tmp_path / "tgs", trees.zips())
    command(tmp_path / "run", "action=show", "data=tgs", f"data.root={root}")
    assert cv2.imread(str(tmp_path / "run/figures/samples.png")) is not None


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for overrides, says in (
        (["action=verifi"], "Did you mean 'verify'?"),
        (["action=verify"], "action=download"),
        (["action=show"], "does not exist"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(tmp_path / "run", "data=tgs", f"data.root={tmp_path / 'nothing'}", *overrides)
        assert stop.value.code == 1
        assert says in capsys.readouterr().err


# --- download -------------------------------------------------------------------------------------------------------


def raises(error: BaseException) -> Callable[..., str]:
    def call(*arguments: object, **options: object) -> str:
        raise error

    return call


def refused(status: int) -> KaggleApiHTTPError:
    response = requests.Response()
    response.status_code = status
    return KaggleApiHTTPError(f"{status} Client Error.", response=response)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token, and a network that answers."""
    monkeypatch.setattr(kagglehub.config, "get_kaggle_credentials", lambda: "token")
    monkeypatch.setattr(requests, "head", lambda *a, **k: requests.Response())


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnauthenticatedError(), "no Kaggle token.*kaggle.com/settings.*KAGGLE_API_TOKEN"),
        (refused(401), "does not accept the token"),
        (refused(403), "Accept the competition's rules on .*tgs-salt-identification-challenge/rules"),
        (refused(500), "Kaggle answers 500"),
        (requests.ConnectionError("no route"), "can't be reached"),
        (requests.ReadTimeout("slow"), "can't be reached"),
        (OSError(28, "No space left on device"), "No space left"),
        (ValueError("Invalid Kaggle credentials file at kaggle.json"), "Invalid Kaggle credentials"),
    ],
)
def test_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    monkeypatch.setattr(kagglehub, "competition_download", raises(error))
    with pytest.raises(SaltsegError, match=says):
        dataset.download(tmp_path / "tgs")
    assert not (tmp_path / "tgs").exists()


@pytest.mark.usefixtures("token")
def test_no_network_is_noticed_before_kagglehub_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "head", raises(requests.ConnectTimeout("5 s")))
    monkeypatch.setattr(kagglehub, "competition_download", raises(AssertionError("must not be called")))
    with pytest.raises(SaltsegError, match=r"can't be reached.*download .*/data elsewhere.*data\.root="):
        dataset.download(tmp_path / "tgs")


def test_no_token_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLEHUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(kagglehub.config, "get_kaggle_credentials", lambda: None)
    monkeypatch.setattr("kagglehub.http_resolver.get_kaggle_credentials", lambda: None)
    monkeypatch.setattr("kagglehub.clients.get_kaggle_credentials", lambda: None)
    monkeypatch.setattr(requests.Session, "send", raises(AssertionError("no network")))
    with pytest.raises(SaltsegError, match="no Kaggle token"):
        dataset.download(tmp_path / "tgs")


def test_without_kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(SaltsegError, match="pip install kagglehub"):
        dataset.download(tmp_path)


@pytest.mark.usefixtures("token")
def test_downloaded_data_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = trees.write(tmp_path / "cache", trees.zips())
    root = tmp_path / "tgs"
    monkeypatch.setattr(kagglehub, "competition_download", lambda *a, **k: str(sent))
    dataset.download(root)
    assert verify(TGS(str(root))).problems == []
    monkeypatch.setattr(kagglehub, "competition_download", raises(AssertionError("it is there already")))
    dataset.download(root)
    # Damaged is fetched again, past kagglehub's cache.
    (root / "train.zip").unlink()
    (root / "train.zip").write_bytes(b"PK")
    asked = []
    monkeypatch.setattr(kagglehub, "competition_download", lambda *a, **k: asked.append(k) or str(sent))
    dataset.download(root)
    assert asked == [{"force_download": True}]
    assert find_tgs(root)
    assert verify(TGS(str(root))).problems == []


@pytest.mark.usefixtures("token")
def test_something_else_is_not_taken_for_tgs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = trees.write(tmp_path / "cache", {"readme.txt": b"moved"})
    monkeypatch.setattr(kagglehub, "competition_download", lambda *a, **k: str(sent))
    with pytest.raises(SaltsegError, match="no training images"):
        dataset.download(tmp_path / "tgs")
