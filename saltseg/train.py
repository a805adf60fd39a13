"""``python -m saltseg.train``: an experiment becomes a run."""

import logging
import warnings
from contextlib import nullcontext
from dataclasses import make_dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from saltseg.callbacks import MONITORS, DataPictures, EpochSeed, History, LossSchedule
from saltseg.command import app, command_line
from saltseg.components import check, instantiate, listed
from saltseg.config import choices, resolved
from saltseg.cpu import suit_cpu
from saltseg.data.datamodule import SaltDataModule
from saltseg.data.sampling import Grain
from saltseg.errors import SaltsegError, check_choice
from saltseg.hardware import detect, keep_memory
from saltseg.inference import Predictor, load_net, restore
from saltseg.metrics import check_threshold
from saltseg.module import SaltModule, SaltNet
from saltseg.pictures import plots
from saltseg.report import announce, draw_data, show_scores
from saltseg.run import Run, read_checkpoint
from saltseg.scoring import Part, score_run, split_table
from saltseg.sweep import planned
from saltseg.tracking import gallery, tracked, trackers
from saltseg.waves import printing_to

log = logging.getLogger(__name__)

# The images are in memory and the cores are the network's: that advice doesn't apply.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# A resume finds best.ckpt there, which Run.adopt carried over.
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
# Lightning's own use of what torch deprecates.
warnings.filterwarnings("ignore", message=".*LeafSpec.*")

# ``trainer.anything`` is checked against what Lightning's Trainer takes.
ConfigStore.instance().store(
    group="trainer",
    name="schema",
    node=make_dataclass(
        "TrainerConfig",
        [("_target_", str, "lightning.Trainer")]
        + [
            (p.name, Any, None if p.default is Parameter.empty else p.default)
            for p in signature(Trainer.__init__).parameters.values()
            if p.name not in ("self", "callbacks", "logger", "default_root_dir")
        ],
    ),
)


def train(config: DictConfig) -> float:
    """Fit, score and report one experiment; returns the best epoch's monitored value."""
    job = planned(Path(HydraConfig.get().runtime.output_dir))
    run = begin(config, again=job is not None)
    twin = None if job is None or job.trains else Run(run.path.parent / job.trained_by)
    with printing_to(run.log_file) if job else nullcontext(), run.outcome():
        if twin is None:
            resume(config, run)
        suit_machine(config)
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        data = make_data(config)
        run.write_table(run.path / "split.csv", split_table(data))
        loggers = listed(config.logger, config.trust, save_dir=str(run.path))
        with tracked(loggers, resolved(config), "score" if twin else "train"):
            if twin:
                about = run.share(twin)
                draw_data(run, data)
            else:
                about = fit(config, run, data, loggers)
            score(config, run, data, about, loggers)
        show_scores(run)
    return float(run.history()[config.monitor].max())


def begin(config: DictConfig, again: bool = False) -> Run:
    """The run's directory, with all that is known before the work starts."""
    check_values(config)
    run = Run.begin(Path(HydraConfig.get().runtime.output_dir), again)
    config.choices = choices()
    if config.memory_format.value == "auto":
        config.memory_format = detect().memory_format
    run.write_config(resolved(config))
    run.write_environment(command_line())
    return run


def resume(config: DictConfig, run: Run) -> None:
    """Make ready to go on from ``ckpt_path``; in a sweep that is continued, from where this job stopped."""
    if run.last_checkpoint.exists():
        config.ckpt_path = str(run.last_checkpoint)
    if config.ckpt_path is not None:
        run.adopt(Path(config.ckpt_path))


def check_values(config: DictConfig) -> None:
    """What can be known to be wrong before anything is built.

    Raises:
        SaltsegError: if a value or a component is.
    """
    check_threshold(config.threshold)
    check(config, config.trust)
    check_choice("monitor", config.monitor, MONITORS)
    if config.init is not None:
        check_init(config.init, config.ckpt_path)


def check_init(init: str, ckpt_path: str | None) -> None:
    """Whether there is a finished run to start from, and what is to be resumed, if anything, started from it.

    Raises:
        SaltsegError: if not.
    """
    if ckpt_path is None:
        Run.finished(init, "init")
        return
    resumed = Run(Path(ckpt_path).resolve().parent.parent)
    begun = resumed.config().get("init") if resumed.config_file.is_file() else None
    if begun is None or Path(begun).resolve() != Path(init).resolve():
        raise SaltsegError(
            f"init={init}: {ckpt_path}, which is to be resumed, started from {begun or 'no other run'}. A checkpoint "
            "has its weights already: leave init out, or ckpt_path to train anew."
        )


def suit_machine(config: DictConfig) -> None:
    """What holds for the whole process: its threads and, on a CPU, its memory."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.trainer.accelerator == "cpu":
        keep_memory()


def make_data(config: DictConfig) -> SaltDataModule:
    """The data with the augmentation of the training images."""
    import albumentations

    transforms = listed(config.augmentation.transforms, config.trust)
    augmentation = albumentations.Compose(transforms) if transforms else None
    data: SaltDataModule = instantiate(config.data, config.trust, augmentation=augmentation, seed=config.seed)
    return data


def make_module(config: DictConfig, data: SaltDataModule) -> SaltModule:
    """The network with its optimizer and scheduler; with ``init``, it has the weights of that run."""
    model = config.model.copy()
    if config.init is not None and "encoder_weights" in model:
        model.encoder_weights = None  # so that no hub is asked for what would be overwritten
    net = SaltNet(instantiate(model, config.trust), data.normalize)
    if config.init is not None:
        before = Run(Path(config.init).resolve())
        if config.ckpt_path is None:
            restore(net, before.scored_checkpoint)
        net.encoder_init = f"run:{before.path.name}"
    if config.trainer.accelerator != "cpu":
        if config.compile:
            net.net.compile()
    elif config.compile or str(config.trainer.precision).startswith("bf16"):  # else float32 is the plain reference
        suit_cpu(net, fuse=config.compile)
    if config.memory_format.value == "channels_last":
        net.net.to(memory_format=torch.channels_last)
    scheduler = instantiate(config.scheduler, config.trust) if config.scheduler.get("_target_") else None
    optimizer = instantiate(config.optimizer, config.trust)
    return SaltModule(net, optimizer, scheduler, data.fit, config.monitor)


def make_trainer(config: DictConfig, run: Run, loggers: list[Logger]) -> Trainer:
    """Lightning's Trainer with the schedule, the history and what the config names."""
    callbacks = [
        LossSchedule(instantiate(config.loss, config.trust)["phases"]),
        EpochSeed(config.seed),
        History(run),
        *listed(config.callbacks, config.trust),
        DataPictures(run),
    ]
    trainer: Trainer = instantiate(
        config.trainer,
        config.trust,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=str(run.path),
        # On SLURM it is the launcher that asks for more time; Lightning would do so as well.
        **({"plugins": [SLURMEnvironment(auto_requeue=False)]} if SLURMEnvironment.detect() else {}),
    )
    return trainer


def fit(config: DictConfig, run: Run, data: SaltDataModule, loggers: list[Logger]) -> dict[str, Any]:
    """Train, from the start or from where it stopped; returns what ``metrics.json`` says about the training."""
    module = make_module(config, data)
    trainer = make_trainer(config, run, loggers)
    announce(config, data, module)
    if config.ckpt_path is not None:
        restore(module.net, Path(config.ckpt_path))
    try:
        trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path, weights_only=True)
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise  # SLURM's time is up
        # Lightning's way to pass on Ctrl-C; a job never exits.
        hint = f"Resume with: ckpt_path={run.last_checkpoint}" if run.last_checkpoint.exists() else "No epoch was done."
        raise KeyboardInterrupt(f"Stopped in epoch {trainer.current_epoch}. {hint}") from stop
    if config.trainer.fast_dev_run:  # which writes no checkpoints; the rest of the way is to be tried, too
        for file in (run.best_checkpoint, run.last_checkpoint):
            trainer.save_checkpoint(file)
    history = run.history()
    return {
        "encoder_init": module.net.encoder_init,
        "trained_by": run.path.name,
        "train_seconds": round(float(history["seconds"].sum()), 1),
        "images_per_second": round(float(history["images_per_second"].median()), 2),
    }


def score(config: DictConfig, run: Run, data: SaltDataModule, about: dict[str, Any], loggers: list[Logger]) -> None:
    """Score the kept weights on the held-out images; write, draw and track it, with what is known of the training."""
    predictor = Predictor(
        [load_net(run, config.weights.value, config.trust)],
        fit=data.fit,
        tta=config.tta.value,
        batch_size=data.batch_size,
        fabric=Fabric(accelerator=config.trainer.accelerator, devices=1, precision=config.trainer.precision),
        memory_format=config.memory_format.value,
        image_size=data.image_size,
    )
    scores = score_run(run, data, predictor, config.threshold)
    plots.curves(run.history(), run.figures / "curves.png")
    metrics = {
        **scores,
        **Grain.measure(data.seen()).flat(),
        "weights": config.weights.value,
        "tta": config.tta.value,
        "dataset": config.choices.data,
        "image_height": data.image_size[0],
        "image_width": data.image_size[1],
        **about,
        "status": "finished",
    }
    run.write_metrics(metrics)
    shown = data.select(data.division.indices("val")[gallery(data.part("val").coverage)])
    step = read_checkpoint(run.last_checkpoint)["global_step"]
    for tracker in trackers(loggers):
        tracker.log_pictures(Part.of(shown, predictor(shown.images)), config.threshold, step)
        tracker.log_run(run, step)


main = app("train")(train)

if __name__ == "__main__":
    # By its own name, under which the worker processes of a sweep find what they are to run.
    from saltseg.train import main as command

    command()
