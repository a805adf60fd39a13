"""One trial of a search: a training in a process of its own, watched from outside."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from saltseg.run import Run

#: Seconds between two looks at a training.
POLL = 0.5
#: Seconds that a training is given to stop.
PATIENCE = 60


class TrialError(Exception):
    """A training that failed; its message is the reason."""


class Interrupt:
    """Ctrl-C, taken between two looks at a training alone: in a transaction it would leave the storage locked.

    A second one is taken at once. (That there is a handler matters to trainings, too: a shell has what it runs in the
    background ignore Ctrl-C, which they would inherit.)
    """

    def __enter__(self) -> "Interrupt":
        self.asked = False
        self.before = signal.signal(signal.SIGINT, self.note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def note(self, *_: object) -> None:
        """The handler."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def pause(self) -> None:
        """Sleep until the next look.

        Raises:
            KeyboardInterrupt: if there was one.
        """
        time.sleep(POLL)
        if self.asked:
            raise KeyboardInterrupt


def command(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """What to execute for a trial."""
    return [sys.executable, "-m", "saltseg.train", *(f"--config-dir={folder}" for folder in config_dirs), *overrides]


@contextmanager
def training(arguments: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process whose output goes to ``log``; leaving the block stops it as Ctrl-C does, if it hasn't ended.

    The output goes through a pipe of ours: when we are killed, its reader is gone, and the training fails at the next
    line that it prints, which is at the end of its epoch. In a session of its own, it doesn't see the terminal's
    Ctrl-C beside ours, since Lightning gives up its orderly stop on a second one.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("ab", buffering=0) as file,
        subprocess.Popen(
            arguments,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        copying = Thread(target=shutil.copyfileobj, args=(process.stdout, file))
        copying.start()
        try:
            yield process
        finally:
            _stop(process)
            copying.join()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
    except BaseException:  # a second Ctrl-C
        process.kill()
        raise


def epochs(
    run: Run, process: "subprocess.Popen[bytes]", monitor: str, pause: Callable[[], None]
) -> Iterator[tuple[int, float]]:
    """Each epoch with its monitored value, as the training writes them, until it ends."""
    seen = 0
    ended = False
    while not ended:
        ended = process.poll() is not None  # asked first: what it wrote last is then read
        if run.history_file.exists():
            rows = run.history().iloc[seen:]
            seen += len(rows)
            yield from ((int(epoch), float(value)) for epoch, value in zip(rows["epoch"], rows[monitor], strict=True))
        if not ended:
            pause()


def reason(run: Run, log: Path) -> str:
    """Why a training failed: what it recorded, or the last line that it printed."""
    if run.metrics_file.exists() and run.metrics().get("error"):
        return str(run.metrics()["error"])
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "It printed nothing.")
