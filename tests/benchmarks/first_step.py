"""Ends a training after its first step: what ``compare.py`` times the start by."""

import time
from typing import Any

from lightning import Callback


class StopAfterFirst(Callback):
    """Says when that was, and raises Ctrl-C."""

    def on_train_batch_end(self, *_: Any) -> None:
        print(time.time(), flush=True)
        raise KeyboardInterrupt
