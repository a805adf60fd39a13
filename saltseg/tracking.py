"""Weights & Biases and TensorBoard: what a job is, learns, predicts and scores, and how it ended."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image

from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError, needed
from saltseg.pictures import figures
from saltseg.run import Run
from saltseg.scoring import Part

#: Under which the validation images stand.
PICTURES = "val/pictures"

#: What the overlays of a W&B image mean; truth and prediction differ in number, hence in colour.
LABELS = {0: "no salt", 1: "predicted salt", 2: "true salt", 3: "not labelled"}

#: How a job ended; W&B takes 255 for Ctrl-C.
FINISHED, FAILED, INTERRUPTED = 0, 1, 255


class Tracker(Logger, ABC):
    """A logger that takes more than Lightning gives it. Another logger of Lightning's may stand beside it."""

    @abstractmethod
    def open(self, config: Mapping[str, Any], job_type: str) -> None:
        """Begin the record of a job that will ``train`` or only ``score``."""

    @abstractmethod
    def log_pictures(self, part: Part, threshold: float, step: int) -> None:
        """Show images with truth and prediction."""

    @abstractmethod
    def log_run(self, run: Run, step: int) -> None:
        """Keep what a finished run has come to: scores, threshold curve, tables."""

    @abstractmethod
    def close(self, ended: int) -> None:
        """End the record as :data:`FINISHED`, :data:`FAILED` or :data:`INTERRUPTED`."""


class Wandb(Tracker, WandbLogger):
    """One W&B run per job.

    Online when an account is known (``wandb login``, or WANDB_API_KEY), else offline, to be sent by ``wandb sync``;
    WANDB_MODE decides where it is set.

    ```yaml
    logger:
      wandb: {_target_: saltseg.tracking.Wandb, project: saltseg, artifact: true}
    ```

    Args:
        project: in which the runs stand.
        name: of this run.
        tags: to find it by.
        group: the sweep that it belongs to, or None.
        artifact: also keep ``best.ckpt``, with its scores.
        ckpt_path: what is resumed: the W&B run of that directory is continued.
        save_dir: under which W&B keeps its files.

    Raises:
        SaltsegError: if wandb is not installed, or the account's key can't be one.
    """

    def __init__(
        self,
        project: str,
        name: str,
        tags: Sequence[str],
        save_dir: str,
        group: str | None = None,
        artifact: bool = False,
        ckpt_path: str | None = None,
    ) -> None:
        wandb = needed("wandb", "logger=wandb")
        self.artifact = artifact
        super().__init__(
            project=project,
            name=name,
            save_dir=save_dir,
            id=wandb_id(ckpt_path),
            tags=list(tags),
            group=group,
            mode=environ.get("WANDB_MODE") or ("online" if logged_in() else "offline"),
            # Nothing in this process can then write into this run but this logger: not the next job of a sweep.
            reinit="create_new",
            # In seconds: how long a server may keep us waiting, and what a killed run may lose of its record.
            settings=wandb.Settings(silent=True, init_timeout=30, x_transaction_log_flush_interval=1),
        )

    def open(self, config: Mapping[str, Any], job_type: str) -> None:
        """Begin the W&B run.

        Raises:
            SaltsegError: if its server can't be reached.
        """
        import wandb

        self._wandb_init["job_type"] = job_type
        self._wandb_init.pop("anonymous", None)  # Lightning passes on what wandb has given up, and warns of
        try:
            self.log_hyperparams(dict(config))
        except wandb.Error as error:
            raise SaltsegError(f"W&B: {error}\nWith WANDB_MODE=offline the run stays here, for wandb sync.") from error

    def log_pictures(self, part: Part, threshold: float, step: int) -> None:
        """As images with two overlays."""
        masks = [
            {"prediction": _overlay(p > threshold), "truth": _overlay(np.select([m == 1, m == IGNORE], [2, 3]))}
            for p, m in zip(part.maps, part.images.masks, strict=True)
        ]
        self.log_image(PICTURES, list(part.images.images), step, caption=captions(part, threshold), masks=masks)

    def log_run(self, run: Run, step: int) -> None:
        """As summary, chart, table and, if asked for, artifact; the curve also as rows, by which runs are compared."""
        import wandb

        metrics, curve = run.metrics(), pd.read_csv(run.path / "thresholds.csv")
        x, *scores = curve.columns
        for score in scores:
            self.experiment.define_metric(f"thresholds/{score}", step_metric=f"thresholds/{x}")
        for row in curve.to_dict("records"):
            self.experiment.log({f"thresholds/{name}": value for name, value in row.items()})
        series = [curve[score].tolist() for score in scores]
        predictions = pd.read_csv(run.path / "predictions.csv", dtype={"id": str, "group": str}).fillna({"group": ""})
        chart = wandb.plot.line_series(curve[x].tolist(), series, scores, "validation", x)
        self.experiment.summary.update(metrics)
        with self._data_beside_run():
            self.log_metrics({"threshold_curve": chart, "predictions": wandb.Table(dataframe=predictions)}, step)
            if self.artifact:
                best = wandb.Artifact(f"best-{self.experiment.id}", type="model", metadata=metrics)
                best.add_file(str(run.best_checkpoint.resolve()), name="best.ckpt", policy="immutable", skip_cache=True)
                self.experiment.log_artifact(best)

    @contextmanager
    def _data_beside_run(self) -> Iterator[None]:
        """Until they are sent, W&B would keep tables in the user's home, where nobody looks after them."""
        elsewhere = environ.get("WANDB_DATA_DIR")
        environ["WANDB_DATA_DIR"] = elsewhere or str(Path(str(self.save_dir)) / "wandb")
        try:
            yield
        finally:
            if elsewhere is None:
                del environ["WANDB_DATA_DIR"]

    def close(self, ended: int) -> None:
        """End the W&B run as what it was."""
        if self._experiment is not None:
            self.experiment.finish(exit_code=ended)


class Tensorboard(Tracker, TensorBoardLogger):
    """Scalars, configuration and pictures in ``<run>/tensorboard``, for ``tensorboard --logdir``.

    ```yaml
    logger:
      tensorboard: {_target_: saltseg.tracking.Tensorboard}
    ```

    Args:
        save_dir: the run's directory.
        ckpt_path: what is resumed: what was logged beside it is carried over.

    Raises:
        SaltsegError: if tensorboard is not installed.
    """

    def __init__(self, save_dir: str, ckpt_path: str | None = None) -> None:
        needed("tensorboard", "logger=tensorboard")
        super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False)
        self.ckpt_path = ckpt_path

    def open(self, config: Mapping[str, Any], job_type: str) -> None:
        """The configuration, as text to read; by its choices the runs are compared."""
        here, before = Path(self.log_dir).resolve(), earlier(self.ckpt_path, "tensorboard")
        if before is not None and before.is_dir() and before != here:
            shutil.copytree(before, here, dirs_exist_ok=True)
        chosen = {**config["choices"], "seed": config["seed"], "threshold": config["threshold"]}
        self.log_hyperparams({**chosen, "job_type": job_type})
        self.experiment.add_text("config", indent(OmegaConf.to_yaml(OmegaConf.create(dict(config))), "    "))

    def log_pictures(self, part: Part, threshold: float, step: int) -> None:
        """As one sheet."""
        images = part.images
        with TemporaryDirectory() as folder:
            sheet = Path(folder) / "sheet.png"
            figures.predictions(images.images, images.masks, part.maps, captions(part, threshold), sheet, threshold)
            self.experiment.add_image(PICTURES, np.asarray(Image.open(sheet)), step, dataformats="HWC")

    def log_run(self, run: Run, step: int) -> None:
        """As the result of its choices; the curve against the threshold in percent, for want of another x."""
        scores = {k: v for k, v in run.metrics().items() if k.split("/")[0] in ("val", "test", "heldout")}
        self.log_hyperparams(dict(self.hparams), {f"final/{k}": v for k, v in scores.items() if v is not None}, step)
        for row in pd.read_csv(run.path / "thresholds.csv").to_dict("records"):
            percent = round(100 * row.pop("threshold"))
            self.log_metrics({f"thresholds/{name}": value for name, value in row.items()}, percent)

    def close(self, ended: int) -> None:
        """Write what is still in memory."""
        self.finalize("success" if ended == FINISHED else "failed")


def trackers(loggers: Sequence[Logger]) -> list[Tracker]:
    """Those that take more than Lightning gives them."""
    return [logger for logger in loggers if isinstance(logger, Tracker)]


@contextmanager
def tracked(loggers: Sequence[Logger], config: Mapping[str, Any], job_type: str) -> Iterator[None]:
    """Tell the trackers what is run, and close them with how it ended."""
    ended = FAILED
    try:
        for tracker in trackers(loggers):
            tracker.open(config, job_type)
        yield
        ended = FINISHED
    except KeyboardInterrupt:
        ended = INTERRUPTED
        raise
    finally:
        for tracker in trackers(loggers):
            tracker.close(ended)


def gallery(coverage: NDArray[np.float64], each: int = 3) -> list[int]:
    """Positions of the images to look at, the same for the same masks.

    Args:
        coverage: N shares of salt.
        each: how many without salt, with little of it (thin or cut off: the hard ones), with much, and nearly full.

    Returns:
        Up to 4·``each`` positions by ascending share, evenly spread over each of the four.
    """
    order = np.argsort(coverage, kind="stable")
    empty, salt = order[coverage[order] == 0], order[coverage[order] > 0]
    chosen: list[int] = []
    for kind in (empty, *np.array_split(salt, 3)):
        places = np.linspace(0, len(kind) - 1, min(each, len(kind))).round().astype(int)
        chosen += [int(position) for position in kind[places]]
    return chosen


def captions(part: Part, threshold: float) -> list[str]:
    """What to write above each image."""
    scores = part.at(threshold).iou[:, 0]
    shares = part.images.coverage
    return [
        f"{name}\n{share:.0%} salt, IoU {iou:.2f}"
        for name, share, iou in zip(part.images.ids, shares, scores, strict=True)
    ]


def logged_in(verify: bool = False) -> bool:
    """Whether a W&B account is known here; nobody is asked.

    Raises:
        SaltsegError: if the key can't be one or, with ``verify``, if the server refuses it or can't be reached.
    """
    wandb = needed("wandb", "W&B")
    try:
        return bool(wandb.login(prompt=False, verify=verify))
    except wandb.errors.AuthenticationError as error:
        raise SaltsegError(f"W&B refuses the key of the account, or can't be reached: {error}") from error


def earlier(ckpt_path: str | None, folder: str) -> Path | None:
    """That folder of the run whose checkpoint is resumed."""
    return None if ckpt_path is None else Path(ckpt_path).resolve().parent.parent / folder


def wandb_id(ckpt_path: str | None) -> str | None:
    """The id of the run that is resumed, with which W&B ends the names of its directories; None if there is none."""
    folder = earlier(ckpt_path, "wandb")
    found = [] if folder is None else [p.name.rsplit("-", 2)[1:] for p in folder.glob("*run-*-*")]
    return max(found)[1] if found else None  # of several, the latest by the time that stands before the id


def _overlay(classes: NDArray[Any]) -> dict[str, Any]:
    return {"mask_data": classes.astype(np.uint8), "class_labels": LABELS}
