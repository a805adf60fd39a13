import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import imitation
import optuna
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from runs import OWN, TINY, call, composed, failure

from saltseg import search, train
from saltseg.config import CONF, resolved
from saltseg.errors import SaltsegError
from saltseg.run import Run
from saltseg.searching.overrides import experiment, written
from saltseg.searching.space import domain, examples
from saltseg.searching.study import SeededTPE, open_study
from saltseg.searching.trial import Interrupt

SPACES = sorted(file.stem for file in (CONF / "space").glob("*.yaml"))
WIDE = {"x": {"low": 0.1, "high": 0.9}}


@pytest.fixture
def imitated(monkeypatch):
    imitation.use(monkeypatch)


def folder(path, space):
    """A user's own YAMLs with a space."""
    own = shutil.copytree(OWN, path / "own")
    (own / "space").mkdir()
    (own / "space" / "mine.yaml").write_text(yaml.safe_dump(space))
    return own


@contextmanager
def in_a_command():
    """Hydra as it is while a search is at work."""
    with composed("search"), initialize_config_dir(str(CONF), version_base="1.3"):
        yield


# The space


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["bce", "dice", None, 3], CategoricalDistribution(["bce", "dice", None, 3])),
        ({"low": 1, "high": 8}, IntDistribution(1, 8)),
        ({"low": 16, "high": 64, "step": 16}, IntDistribution(16, 64, step=16)),
        ({"low": 1, "high": 64, "log": True}, IntDistribution(1, 64, log=True)),
        ({"low": 1e-4, "high": 1e-2, "log": True}, FloatDistribution(1e-4, 1e-2, log=True)),
        ({"low": 0, "high": 1.5}, FloatDistribution(0.0, 1.5)),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, FloatDistribution(0.0, 1.0, step=0.25)),
    ],
)
def test_a_space_is_read(given, expected):
    assert domain("key", given) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "list of choices"),
        ([], "choices"),
        ([["a", "b"]], "choice"),
        ({"low": 1, "hihg": 3}, "Did you mean 'high'"),
        ({"low": 1, "log": True}, "high is missing"),
        ({"low": 3, "high": 1}, "low"),
        ({"low": 0.0, "high": 1.0, "log": True}, "low"),
        ({"low": "a", "high": 2.0}, "'a'"),
    ],
)
def test_a_space_that_means_nothing_is_refused(given, said):
    with pytest.raises(SaltsegError, match=rf"space: optimizer\.lr.*{said}"):
        domain("optimizer.lr", given)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_fits_an_experiment(name):
    with composed("search", f"space={name}", "experiment=quickstart") as config:
        space = resolved(config)["space"]
    with in_a_command():
        search.check_space(["experiment=quickstart"], {k: examples(domain(k, given)) for k, given in space.items()})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer.lrr": [1e-3]}, "Did you mean 'lr'"),
        ({"loss": ["bce", "bce_lovas"]}, "Did you mean 'bce_lovasz'"),
        ({}, "nothing to search"),
        ({"seed": [1, 2]}, "seed can't be searched"),
        ({"optimizer.lr": {"low": 1e-3, "hgih": 1}}, "Did you mean 'high'"),
        ("trails=3", "Did you mean 'trials'"),
        ("space=recip", "Did you mean 'recipe'"),
        ("ckpt_path=last.ckpt", "ckpt_path"),
        ("monitor=val/iu", "Did you mean 'val/iou'"),
    ],
)
def test_a_search_that_can_not_work_is_refused_before_it_begins(tmp_path, capfd, wrong, said):
    space, overrides = ({"loss": ["bce", "dice"]}, [wrong]) if isinstance(wrong, str) else (wrong, [])
    own, directory = folder(tmp_path, space), tmp_path / "search"
    assert said in failure(capfd, search.main, *TINY, "space=mine", f"hydra.run.dir={directory}", *overrides, own=own)
    assert not (directory / "study.db").exists()


def test_without_optuna_a_search_says_what_to_install(tmp_path, capfd, monkeypatch):
    for name in ("optuna", "saltseg.searching.space", "saltseg.searching.study"):
        monkeypatch.setitem(sys.modules, name, None)
    said = failure(capfd, search.main, "data=synthetic", f"hydra.run.dir={tmp_path}")
    assert "pip install 'saltseg[search]'" in said


# The sampler and the storage


def test_a_continued_search_draws_what_an_uninterrupted_one_does():
    def draw(*lengths):
        study = optuna.create_study(direction="maximize")
        for length in lengths:
            study.sampler = SeededTPE(3)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1) * trial.suggest_int("n", 1, 9), length)
        return [trial.params for trial in study.trials]

    straight = draw(16)
    assert draw(4, 9, 3) == straight
    assert len({tuple(parameters.values()) for parameters in straight}) == 16


def test_a_storage_belongs_to_one_search(tmp_path):
    file = tmp_path / "study.db"
    for _ in range(2):
        open_study(file, {"base": ["model=tiny"]}, seed=0, warmup=1)
    with pytest.raises(SaltsegError, match=r"another base.*model=tiny.*model=big.*hydra\.run\.dir"):
        open_study(file, {"base": ["model=big"]}, seed=0, warmup=1)
    file.write_text("no database")
    with pytest.raises(SaltsegError, match=re.escape(str(file))):
        open_study(file, {}, seed=0, warmup=1)
    assert list(tmp_path.iterdir()) == [file]


# Trials, imitated


@pytest.mark.usefixtures("imitated")
def test_a_trial_is_worth_its_best_epoch(tmp_path):
    found = imitation.search(tmp_path, {"x": [0.5]})
    found.run(2)
    assert [trial.value for trial in found.study.trials] == [imitation.best(0.5)] * 2
    table = found.table()
    assert table["state"].tolist() == ["complete"] * 2
    assert table["epochs"].tolist() == [imitation.EPOCHS] * 2
    assert [(tmp_path / directory / "history.csv").exists() for directory in table["directory"]] == [True] * 2
    assert (tmp_path / "trials" / "0" / "terminal.log").read_text().splitlines()[-1] == "epoch 5"


@pytest.mark.usefixtures("imitated")
def test_a_hopeless_trial_is_stopped_early_and_in_order(tmp_path):
    imitation.search(tmp_path, {"x": [0.5]}).run(5)
    found = imitation.search(tmp_path, {"y": [1]}, pause=0.3)
    found.base = ["x=0.2", *found.base]
    found.run(6)
    pruned = found.table().iloc[-1]
    assert pruned["state"] == "pruned"
    assert pruned["epochs"] < imitation.EPOCHS
    assert pruned["val/iou"] == pytest.approx(imitation.value(0.2, pruned["epochs"] - 1))
    assert Run(tmp_path / "trials" / "5").metrics()["status"] == "interrupted"
    assert found.best().number == 0


@pytest.mark.usefixtures("imitated")
def test_a_failing_trial_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search, "experiment", lambda overrides, about: f"# {about}\n{' '.join(overrides)}")
    shown = search.Board()
    with shown:
        found = imitation.search(tmp_path, {"x": [-1, 0.4]}, watch=shown.show)
        found.run(8)
    table = pd.read_csv(tmp_path / "trials.csv")
    assert set(table["state"]) == {"failed", "complete"}
    assert found.experiment_file.read_text().endswith("in its best epoch.\npause=0.0 x=0.4")
    assert (table["state"] == "failed").tolist() == (table["x"] == -1).tolist()
    assert set(table.loc[table["x"] == -1, "error"]) == {"ValueError: x is negative"}
    said = capsys.readouterr().out
    assert "x is negative; x -1" in said
    assert f"complete after 6 epochs, val/iou {imitation.best(0.4):.4g}; x 0.4" in said


@pytest.mark.usefixtures("imitated")
def test_a_search_in_which_all_fail_has_failed(tmp_path):
    found = imitation.search(tmp_path, {"x": [-1]})
    found.run(2)
    with pytest.raises(SaltsegError, match=r"None of the 2 trials.*x is negative"):
        search.conclude(found)


def test_without_a_record_the_reason_is_the_last_line_that_was_printed(tmp_path, monkeypatch):
    imitation.use(monkeypatch)
    script = "print('epoch 0'); raise SystemExit('saltseg: no such thing\\n')"
    monkeypatch.setattr("saltseg.searching.study.command", lambda *_: [sys.executable, "-c", script])
    found = imitation.search(tmp_path, {"x": [1]})
    found.run(1)
    assert found.table()["error"].tolist() == ["saltseg: no such thing"]


@pytest.mark.usefixtures("imitated")
def test_an_interrupted_trial_is_taken_up_from_its_last_epoch(tmp_path):
    def stop(found):
        if found.table().iloc[-1]["epochs"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imitation.search(tmp_path, WIDE, pause=0.1, watch=stop).run(1)
    assert Run(tmp_path / "trials" / "0").metrics()["status"] == "interrupted"

    found = imitation.search(tmp_path, WIDE, pause=0.1)
    assert found.table()["state"].tolist() == ["interrupted", "waiting"]
    found.run(1)
    assert found.table()["state"].tolist() == ["interrupted", "complete"]
    first, second = found.study.trials
    assert second.params == first.params
    assert second.value == imitation.best(first.params["x"])
    assert list(second.intermediate_values) == list(range(imitation.EPOCHS))
    assert "epoch 0" not in (tmp_path / "trials" / "1" / "terminal.log").read_text()


@contextmanager
def process(directory, trials, pause=0.0):
    """A search in a process of its own."""
    script = (
        "import sys, pathlib, pytest, imitation; imitation.use(pytest.MonkeyPatch()); "
        f"imitation.search(pathlib.Path(sys.argv[1]), {WIDE}, pause={pause}).run({trials})"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    """Whether a process is at work; those that ended but were not asked for don't count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("imitated")
def test_a_killed_search_goes_on_and_its_training_ends(tmp_path):
    killed = tmp_path / "trials" / "0"
    with process(tmp_path, trials=2, pause=1.0) as first:
        wait(lambda: (killed / "checkpoints" / "last.ckpt").exists() or first.poll() is not None)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    orphan = int((killed / "pid").read_text())
    assert alive(orphan)

    found = imitation.search(tmp_path, WIDE)
    found.run(2)
    table = found.table()
    assert sorted(table["state"]) == ["complete", "complete", "interrupted"]
    first, *_, last = found.study.trials
    assert last.params == first.params
    assert "epoch 0" not in (tmp_path / "trials" / str(last.number) / "terminal.log").read_text()
    wait(lambda: not alive(orphan), seconds=10)
    assert len(Run(killed).history()) < imitation.EPOCHS


def test_several_processes_share_a_search(tmp_path):
    with process(tmp_path, trials=8, pause=0.02) as first, process(tmp_path, trials=8, pause=0.02) as second:
        said = [worker.communicate(timeout=120)[1] for worker in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    table = imitation.search(tmp_path, WIDE).table()
    assert set(table["state"]) <= {"complete", "pruned"}
    assert len(table) in (8, 9)  # both may begin the last one at the same moment
    assert table["x"].nunique() == len(table)
    assert [f"trials/{number}" for number in range(len(table))] == table["directory"].tolist()


# The experiment that is found


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=pretrained", "data=synthetic", written("optimizer.lr", 1.5e-5), "loss=focal_dice"],
        ["data=synthetic", "loss.phases.1.epoch=3", "logger=[wandb,tensorboard]", "model.encoder_weights=null"],
        ["data=synthetic", "data.split={train: 24, val: 8}", "+optimizer.eps=1e-7", "seed=3", written("tta", "hflip")],
    ],
)
def test_an_experiment_says_what_its_overrides_say(tmp_path, overrides):
    (tmp_path / "experiment").mkdir()
    with in_a_command():
        (tmp_path / "experiment" / "best.yaml").write_text(experiment(overrides, "the best"))
        expected = compose("train", overrides)
        written_out = compose("train", ["experiment=best", f"hydra.searchpath=[file://{tmp_path}]"])
    assert OmegaConf.to_container(written_out) == OmegaConf.to_container(expected)


@pytest.mark.parametrize("override", ["~callbacks.progress", "+callbacks@callbacks.more=weight_averaging"])
def test_what_an_experiment_can_not_say_is_refused(override):
    with in_a_command(), pytest.raises(SaltsegError, match=re.escape(override)):
        experiment(["data=synthetic", override], "the best")


# The command


@pytest.mark.slow
def test_a_search_ends_with_an_experiment_that_trains(tmp_path, capfd):
    directory = tmp_path / "search"
    own = folder(tmp_path, {"optimizer.lr": {"low": 1e-3, "high": 1e-1, "log": True}, "loss": ["bce", "dice"]})
    call(search.main, *TINY, "space=mine", "trials=2", f"hydra.run.dir={directory}", own=own)
    said = capfd.readouterr().out
    trials = pd.read_csv(directory / "trials.csv")
    assert trials["state"].tolist() == ["complete"] * 2
    best = Run(directory / str(trials.loc[trials["val/iou"].idxmax(), "directory"]))
    assert best.history()["val/iou"].max() == trials["val/iou"].max()

    assert f"--config-dir {directory} 'hydra.searchpath=[file://{own}]' experiment=best" in said
    call(
        train.main,
        f"hydra.searchpath=[file://{own}]",
        "experiment=best",
        f"hydra.run.dir={tmp_path / 'run'}",
        own=directory,
    )
    again = Run(tmp_path / "run")
    assert again.history()["val/iou"].tolist() == best.history()["val/iou"].tolist()
    configs = [yaml.safe_load(run.config_file.read_text()) for run in (again, best)]
    assert [config["choices"].pop("experiment", None) for config in configs] == ["best", None]
    assert configs[0] == configs[1]


def test_ctrl_c_is_taken_at_a_pause_and_a_second_one_at_once():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.pause()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_says_how_to_go_on(tmp_path, capfd, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("saltseg.searching.study.Search.run", stop)
    with pytest.raises(SystemExit, match="130"):
        call(search.main, *TINY, "space=mine", f"hydra.run.dir={tmp_path}", own=folder(tmp_path, {"loss": ["bce"]}))
    said = capfd.readouterr().err
    assert "Continue by: python -m saltseg.search" in said
    assert f"hydra.run.dir={tmp_path}" in said
