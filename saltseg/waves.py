"""Carrying out a sweep: the two waves, what a person sees of them, and the table of all jobs."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from saltseg.command import MENDABLE, explain
from saltseg.errors import SaltsegError
from saltseg.files import write_whole
from saltseg.run import Run
from saltseg.sweep import Job, State, Sweep, record_failure

#: Runs jobs made of these overrides and waits for them.
Launch = Callable[[list[list[str]]], Sequence[JobReturn]]


def carry_out(sweep: Sweep, launch: Launch, at_once: int | None = None) -> None:
    """Run what is not finished: first the jobs that train, then those that score; report and sum up on the way.

    Args:
        sweep: the plan.
        launch: runs the jobs made of these overrides and waits for them.
        at_once: how many jobs ``launch`` gets in one call; None: a whole wave.

    Raises:
        SaltsegError: if a job did not finish; lists them with their reasons.
    """
    with _watched(sweep) as look:
        try:
            for wave in ([j for j in sweep.jobs if j.trains], [j for j in sweep.jobs if not j.trains]):
                due = [job for job in wave if _due(sweep, job)]
                for start in range(0, len(due), at_once or len(due) or 1):
                    _launch(sweep, due[start : start + (at_once or len(due))], launch, look)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                f"Stopped. The same command with hydra.sweep.dir={sweep.directory} goes on with it."
            ) from stop
    failed = [(job, state) for job in sweep.jobs if (state := sweep.state(job)).status != "finished"]
    if failed:
        reasons = "\n".join(f"  {job.directory}: {state.metrics.get('error')}" for job, state in failed)
        raise SaltsegError(
            f"{len(failed)} of {len(sweep.jobs)} jobs did not finish:\n{reasons}\n"
            f"The same command with hydra.sweep.dir={sweep.directory} tries them again and keeps the rest."
        )


def _due(sweep: Sweep, job: Job) -> bool:
    """Whether a job is to be launched; one whose training is not there has failed already."""
    if not job.training or sweep.state(job).status == "finished":
        return False
    if not job.trains and State.of(Run(sweep.directory / job.trained_by)).status != "finished":
        record_failure(sweep.directory / job.directory, f"Its training, {job.trained_by}, did not finish.")
        return False
    return True


def _launch(sweep: Sweep, jobs: list[Job], launch: Launch, look: Callable[[], None]) -> None:
    reasons: dict[Job, str] = {}
    for job in jobs:  # what an earlier attempt ended as
        Run(sweep.directory / job.directory).metrics_file.unlink(missing_ok=True)
    look()  # or a job that fails at once, as it did before, would seem not to have been tried
    try:
        returns = launch([[*job.overrides, *_placed(sweep.directory, job)] for job in jobs])
    except Exception as error:  # a worker that is killed ends the launch; the jobs that ended before stand
        reasons = dict.fromkeys(jobs, f"{type(error).__name__}: {error}")
    else:
        for job, returned in zip(jobs, returns, strict=True):
            if returned.status is JobStatus.FAILED:  # its return_value would print a line of its own
                reasons[job] = str(returned._return_value)
    for job in jobs:
        if not sweep.state(job).ended:
            reason = reasons.get(job, "It ended without a result: was it killed?")
            record_failure(sweep.directory / job.directory, reason)


def _placed(directory: Path, job: Job) -> list[str]:
    """Where a job writes, spelt out: a worker process would claim a directory of its own."""
    escaped = str(directory).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.sweep.dir='{escaped}'", f"hydra.sweep.subdir='{job.directory}'"]


@contextmanager
def _watched(sweep: Sweep, every: float = 1.0) -> Iterator[Callable[[], None]]:
    """Keep ``summary.csv`` and the terminal up to date while the jobs run; yields what looks at them at once."""
    # A terminal of its own: a job that runs in this process sends what it prints to a file.
    with os.fdopen(os.dup(1), "w") as terminal:
        console = Console(file=terminal, width=None if terminal.isatty() else 160)
        done, looking = threading.Event(), threading.Lock()
        live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, transient=True)
        states: dict[Job, State] = {}

        def look() -> None:
            with looking:
                look_alone()

        def look_alone() -> None:
            changed = False
            for job in sweep.jobs:
                if job in states and states[job].status == "finished":
                    continue
                before, states[job] = states.get(job), sweep.state(job)
                if line := _news(job, before, states[job]):
                    console.print(line, highlight=False, soft_wrap=True)
                changed |= before is None or before.status != states[job].status
            if changed:
                write_whole(sweep.directory / "summary.csv", sweep.summary().to_csv(index=False))
            if console.is_terminal:
                live.update(_table(sweep, states), refresh=True)

        def keep_looking() -> None:
            while not done.wait(every):
                look()

        watcher = threading.Thread(target=keep_looking, daemon=True)
        with live:
            look()
            watcher.start()
            try:
                yield look
            finally:
                done.set()
                watcher.join()
                look()
        console.print(_table(sweep, states))
        console.print(f"summary: {sweep.directory / 'summary.csv'}", soft_wrap=True)


def _news(job: Job, before: State | None, now: State) -> str | None:
    """What is worth a line about a job since the last look."""
    if before is None:
        return None if job.training else f"{job.directory} [red]failed[/red]: {escape(str(now.metrics.get('error')))}"
    if before.status != now.status:
        if now.status == "finished":
            parts = [p for p in ("val", "test") if f"{p}/iou" in now.metrics]
            scores = ", ".join(f"{p} IoU {now.metrics[f'{p}/iou']:.4f}" for p in parts)
            return f"{job.directory} [green]finished[/green]: {scores}"
        if now.status in ("failed", "interrupted"):
            return f"{job.directory} [red]{now.status}[/red]: {escape(str(now.metrics.get('error')))}"
        if now.status == "running":
            return f"{job.directory} {'trains' if job.trains else f'scores the training of {job.trained_by}'}"
    if job.trains and before.epochs < now.epochs and now.status == "running":
        return f"{job.directory} epoch {now.epochs - 1}: {now.last['loss_name']}, val IoU {now.last['val/iou']:.4f}"
    return None


@contextmanager
def printing_to(file: Path) -> Iterator[None]:
    """Let what a job prints, libraries in C included, and what it fails of go to ``file``."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(1), os.dup(2)]
    with file.open("a", buffering=1, encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except MENDABLE as error:
            print(f"saltseg: {explain(error)}")
            raise
        except Exception:
            traceback.print_exc()
            raise
        finally:
            for number, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _table(sweep: Sweep, states: dict[Job, State]) -> Table:
    """All jobs at a glance."""
    table = Table(title=str(sweep.directory), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("job", overflow="fold")
    table.add_column("")
    for column in ("epochs", "img/s", "val IoU", "test IoU"):
        table.add_column(column, justify="right")
    for job, state in states.items():
        color = {"finished": "green", "running": "cyan", "failed": "red", "interrupted": "red"}.get(state.status, "dim")
        status = state.status if job.trains or state.status != "running" else "scoring"
        val = state.metrics.get("val/iou", state.last.get("val/iou"))
        shown = (state.last.get("images_per_second"), 1), (val, 4), (state.metrics.get("test/iou"), 4)
        numbers = ["" if number is None else f"{number:.{digits}f}" for number, digits in shown]
        table.add_row(job.directory, f"[{color}]{status}[/{color}]", str(state.epochs or ""), *numbers)
    return table
