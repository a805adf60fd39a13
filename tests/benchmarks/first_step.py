"""Ends a training after its first step: what ``compare.py`` times the start by."""

from typing import Any

from lightning import Callback


class StopAfterFirst(Callback):
    """Raises Ctrl-C."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise KeyboardInterrupt
