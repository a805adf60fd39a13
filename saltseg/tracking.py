"""Weights & Biases as a logger that works offline, never asks, and closes with the job's status."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from saltseg.errors import SaltsegError


class Wandb(WandbLogger):
    """One W&B run per job.

    Online when an account is known (``wandb login``, or WANDB_API_KEY), else offline, to be sent by ``wandb sync``;
    WANDB_MODE decides where it is set.

    ```yaml
    logger:
      wandb: {_target_: saltseg.tracking.Wandb, project: saltseg}
    ```

    Args:
        project: in which the runs stand.
        name: of this run.
        tags: to find it by.
        save_dir: under which W&B keeps its files.

    Raises:
        SaltsegError: if wandb is not installed.
    """

    #: Text stands beside numbers in its history.
    takes_text = True

    def __init__(self, project: str, name: str, tags: Sequence[str], save_dir: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise SaltsegError("logger=wandb needs wandb: pip install saltseg[wandb].") from error
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        super().__init__(
            project=project,
            name=name,
            save_dir=save_dir,
            tags=list(tags),
            mode=mode,
            # Without this the next job of a sweep would write into the run of this one.
            reinit="finish_previous",
            settings=wandb.Settings(silent=True),
        )

    def close(self, failed: bool) -> None:
        """End the W&B run as what it was."""
        if self._experiment is not None:
            self.experiment.finish(exit_code=int(failed))


@contextmanager
def tracked(loggers: Sequence[Logger], config: Mapping[str, Any]) -> Iterator[None]:
    """Tell the loggers what is run, and close them with how it ended."""
    for logger in loggers:
        logger.log_hyperparams(dict(config))
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, Wandb):
                logger.close(failed)
            else:
                logger.finalize("failed" if failed else "success")


def summarize(loggers: Sequence[Logger], metrics: Mapping[str, Any], step: int) -> None:
    """The final scores."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float | int) and not isinstance(v, bool)}
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.experiment.summary.update(numbers)
        else:
            logger.log_metrics(numbers, step)
