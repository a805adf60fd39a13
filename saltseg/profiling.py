"""Where the time of a training goes."""

import time
from collections import defaultdict

from lightning.pytorch.profilers import Profiler

#: The stages of an epoch, and what Lightning calls the actions in which they begin. What has no name of its own, as a
#: hook within the optimizer's step, belongs to the stage around it.
STAGES = {
    "data": ("train_dataloader_next", "batch_to_device", "transfer_batch_to_device"),
    "forward": ("Strategy.training_step",),
    "backward": ("Strategy.backward",),
    "optimizer": ("optimizer_step", "optimizer_zero_grad"),
    "metrics": ("Strategy.validation_step", "on_validation_epoch_end", "val_next"),
    "logging": ("[Callback]",),
}


class Stages(Profiler):
    """Shares of the last epoch's time, validation included, by stage; what is left is Lightning's own.

    ```yaml
    trainer:
      profiler: {_target_: saltseg.profiling.Stages}
    ```
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.since = 0.0

    def start(self, action_name: str) -> None:
        """Time runs for the innermost action's stage."""
        if action_name == "run_training_epoch":
            self.seconds.clear()
            self.open = ["other"]
        self._pass()
        self.open.append(self._of(action_name))

    def stop(self, action_name: str) -> None:
        """Time runs for the action around it again."""
        self._pass()
        self.open.pop()

    def _pass(self) -> None:
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        self.since = now

    def _of(self, action: str) -> str:
        around = self.open[-1] if self.open else "other"
        return next((stage for stage, names in STAGES.items() if any(n in action for n in names)), around)

    def shares(self, **longer: float) -> dict[str, float]:
        """Of every stage, in [0, 1]; together 1. ``longer``: by how much a stage would be longer in a whole epoch."""
        seconds = {stage: self.seconds[stage] * longer.get(stage, 1.0) for stage in (*STAGES, "other")}
        total = sum(seconds.values())
        return {stage: value / total if total else 0.0 for stage, value in seconds.items()}

    def summary(self) -> str:
        """In one line."""
        return "time of the last epoch: " + ", ".join(f"{stage} {share:.1%}" for stage, share in self.shares().items())

    def describe(self) -> None:
        """Say it; Lightning calls this at the end of a fit."""
        print(self.summary(), flush=True)
