"""What happens around the epochs: the loss schedule, the history, pictures, the checkpoints, the progress bar."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from saltseg.data.datamodule import Batch, SaltDataModule
from saltseg.errors import SaltsegError
from saltseg.module import SaltModule
from saltseg.report import draw_data
from saltseg.run import HISTORY_COLUMNS, Run
from saltseg.scoring import Part
from saltseg.tracking import gallery, trackers

#: Scores of every epoch; more is better.
MONITORS = ("val/iou", "val/dice", "val/map")

#: What loggers are also told apart by the loss in force.
IN_PHASES = ("train/loss", "val/loss", "val/iou")


class LossSchedule(Callback):
    """Puts the loss in force by epoch.

    It keeps no state of its own: the loss follows from the epoch alone, so it is right after a resume at any epoch.

    ```yaml
    loss:
      phases:
        - {epoch: 0, name: bce, loss: {_target_: torch.nn.BCEWithLogitsLoss}}
        - {epoch: 20, name: dice, loss: {_target_: segmentation_models_pytorch.losses.DiceLoss, mode: binary}}
    ```

    Args:
        phases: in order; each with the ``epoch`` at which it begins, the ``name`` that the history shows, and the
            ``loss``: logits and targets, both B×1×H×W float32, to a scalar.

    Raises:
        SaltsegError: if the first phase doesn't begin at epoch 0 or the epochs don't ascend.
    """

    def __init__(self, phases: Sequence[Mapping[str, Any]]) -> None:
        epochs = [int(p["epoch"]) for p in phases]
        if not epochs or epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise SaltsegError(f"loss.phases: epochs must begin at 0 and ascend, but they are {epochs}.")
        self.phases = phases

    def at(self, epoch: int) -> tuple[str, nn.Module]:
        """Name and loss in force at ``epoch``."""
        phase = [p for p in self.phases if p["epoch"] <= epoch][-1]
        return str(phase["name"]), phase["loss"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything is validated."""
        self._put(0, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first epoch, of a resume too."""
        self._put(trainer.current_epoch, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At every epoch."""
        self._put(trainer.current_epoch, pl_module)

    def _put(self, epoch: int, module: LightningModule) -> None:
        assert isinstance(module, SaltModule)
        module.loss_name, module.loss = self.at(epoch)


class EpochSeed(Callback):
    """Seeds torch from (seed, epoch), so that an epoch draws the same after a resume as without one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the first step, not at the epoch's start: between them loaders draw, but in a resume's first epoch."""
        if batch_idx == 0:
            torch.manual_seed((self.seed << 20) + trainer.current_epoch)


class DataPictures(Callback):
    """Draws what the network is shown, after its first step: training need not wait for pictures."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.drawn = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Once, of a resumed run too."""
        if not self.drawn:
            self.drawn = True
            draw_data(self.run, _data(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where nothing was left to train."""
        self.on_train_batch_end(trainer)


class History(Callback):
    """Writes ``history.csv``, a row per epoch, and measures images per second (of the training batches alone)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.images = 0
        self.train_seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self.epoch_start = self.batch_end = time.perf_counter()
        self.images, self.train_seconds = 0, 0.0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note the rate of the step; afterwards the scheduler has moved on."""
        self.rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count its images, and the time since the batch before: loading included."""
        now = time.perf_counter()
        self.images += len(batch["image"])
        self.train_seconds += now - self.batch_end
        self.batch_end = now

    @property
    def images_per_second(self) -> float:
        """Of the epoch so far."""
        return self.images / self.train_seconds if self.train_seconds else 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row."""
        assert isinstance(pl_module, SaltModule)
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch,
            "loss_name": pl_module.loss_name,
            "lr": self.rate,
            **{c: logged.get(c, float("nan")) for c in HISTORY_COLUMNS if "/" in c},
            "images_per_second": round(self.images_per_second, 2),
            "seconds": round(time.perf_counter() - self.epoch_start, 2),
        }
        before = self.run.history() if self.run.history_file.exists() else pd.DataFrame(columns=list(HISTORY_COLUMNS))
        history = pd.DataFrame([*before.to_dict("records"), row], columns=list(HISTORY_COLUMNS))
        self.run.write_table(self.run.history_file, history)
        numbers = {k: row[k] for k in ("epoch", "lr", "images_per_second", "seconds")}
        # Losses of two phases don't compare: a curve for each. The best so far, of a resumed run's first part too.
        phases = {f"{k}/{pl_module.loss_name}": logged[k] for k in IN_PHASES if k in logged}
        best = {f"best/{k}": float(history[k].max()) for k in MONITORS if history[k].notna().any()}
        for logger in trainer.loggers:
            logger.log_metrics({**numbers, **phases, **best}, step=trainer.global_step)


class Pictures(Callback):
    """Shows the trackers the same validation images every few epochs, as validation sees them: threshold 0.5, no TTA.

    ```yaml
    callbacks:
      pictures: {_target_: saltseg.callbacks.Pictures, every: 5}
    ```

    Args:
        every: so many epochs, from the first.
    """

    def __init__(self, every: int = 5) -> None:
        self.every = every

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose them, if it is time."""
        due = trackers(trainer.loggers) and not trainer.sanity_checking and trainer.current_epoch % self.every == 0
        self.chosen = gallery(_data(trainer).part("val").coverage) if due else []
        self.maps: dict[int, NDArray[np.float32]] = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: int
    ) -> None:
        """Keep what the chosen ones of the batch were predicted to be."""
        for index, probability in zip(batch["index"].tolist(), outputs["probability"], strict=True):
            if index in self.chosen:
                self.maps[index] = probability.float().cpu().numpy()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show them, less those that a limited validation didn't reach."""
        if self.maps:
            data, seen = _data(trainer), [k for k in self.chosen if k in self.maps]
            part = Part.of(data.select(data.division.indices("val")[seen]), [self.maps[k] for k in seen])
            for tracker in trackers(trainer.loggers):
                tracker.log_pictures(part, 0.5, trainer.global_step)


def _data(trainer: Trainer) -> SaltDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, SaltDataModule)
    return data


class Checkpoint(ModelCheckpoint):
    """Lightning's, in the run's ``checkpoints``, overwriting its file, and taking what it knew along into a resume."""

    def __init__(self, filename: str, **options: Any) -> None:
        super().__init__(filename=filename, enable_version_counter=False, auto_insert_metric_name=False, **options)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place from the run."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Point the paths of an earlier directory to this one, where :meth:`Run.adopt` has put the files."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        super().load_state_dict(
            {
                **state_dict,
                "dirpath": str(here),
                "best_model_path": moved(state_dict["best_model_path"]),
                "kth_best_model_path": moved(state_dict["kth_best_model_path"]),
                "best_k_models": {moved(p): score for p, score in state_dict["best_k_models"].items()},
            }
        )


class Progress(TQDMProgressBar):
    """A bar with images/s, the loss in force and the latest IoU; a line an epoch where output is not a terminal."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 0)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands at the end of the bar."""
        history = next((c for c in trainer.callbacks if isinstance(c, History)), None)  # type: ignore[attr-defined]
        shown: dict[str, Any] = {"loss": getattr(pl_module, "loss_name", "")}
        if history is not None and history.images:
            shown["img/s"] = f"{history.images_per_second:.1f}"
        if "val/iou" in trainer.callback_metrics:
            shown["val IoU"] = f"{float(trainer.callback_metrics['val/iou']):.4f}"
        return shown

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where a bar can't be drawn, say what it would have shown."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.is_disabled:
            shown = self.get_metrics(trainer, pl_module)
            print(f"epoch {trainer.current_epoch}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
