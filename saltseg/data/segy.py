"""SEG-Y files, post-stack: a survey's sections read one at a time, and new files with all headers of an old one.

Samples are read and written by segyio (the extra ``segy``). Headers are read as bytes, all words of a trace in one
pass, for two reasons: a key may lie at any byte, and a copy must hold bytes that no reader knows a name for.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from saltseg.data.segy_headers import Keys, find_lines, pieces, read_headers
from saltseg.data.segy_layout import FLOATS, IBM, IEEE, TEXT, TRACE, Layout, read_layout, with_format, with_note
from saltseg.errors import SaltsegError

log = logging.getLogger(__name__)

Direction = Literal["inline", "crossline"]
Domain = Literal["time", "depth"]

STANDARD = Keys()
_KEY = hashlib.sha256().digest_size
CHUNK = 256  # traces without a value that are written at once
FALLBACK = 4000  # µs, the interval of a file that states none: segyio's own


@dataclass(frozen=True)
class Section:
    """A vertical slice of a survey.

    Attributes:
        amplitude: samples × traces, float32, as the file has them: NaN where it says NaN.
        traces: n numbers of traces in the file, left to right, from 0.
        across: n labels: crossline numbers along an inline and the other way round, rising; on a 2-D line the CDP
            (bytes 21–24) where each trace has its own, else 1 … n.
    """

    amplitude: NDArray[np.float32]
    traces: NDArray[np.int64]
    across: NDArray[np.int32]


class Segy:
    """An open SEG-Y file, big or little endian, in any order of traces, with any of them missing.

    It is a cube if its inline and crossline numbers span a grid, that is if there are at least as many traces as
    inlines and crosslines together (a crooked line has fewer); else it is one 2-D line. In memory are 25 bytes per
    trace and the section that is asked for.

    Attributes:
        path: of the file.
        keys: where the trace headers hold line numbers and coordinates.
        layout: what the file headers say.
        samples: per trace.
        traces: of the file.
        interval: between samples, ms (time) or m (depth).
        start: of the first sample, ms or m.
        domain: ``time`` or ``depth``: what the caller says, for a file doesn't.
        is_cube: False for a 2-D line: a single section of all traces in the order of the file.
        inline: number of each trace.
        crossline: number of each trace.
        x: of each trace, the coordinate scalar (bytes 71–72) applied.
        y: likewise.
        dead: of each trace, whether its identification code (bytes 29–30) is 2.
    """

    def __init__(self, path: Path, keys: Keys, domain: Domain, layout: Layout, file: Any) -> None:
        self.path, self.keys, self.domain, self.layout, self._file = path, keys, domain, layout, file
        self.samples, self.traces = layout.samples, layout.traces
        headers = read_headers(path, layout, keys)
        self.inline, self.crossline, self.dead = headers.inline, headers.crossline, headers.dead
        self.x, self.y, self.start = headers.x, headers.y, headers.delay
        self._lines = find_lines(path, keys, headers)
        self.is_cube = self._lines.is_cube
        interval = layout.interval or headers.interval
        if not interval:
            interval = FALLBACK
            log.warning("%s states no sample interval (bytes 3217–3218, 117–118): %d is taken for it.", path, interval)
        self.interval = interval / 1000

    @classmethod
    def open(cls, path: Path, keys: Keys = STANDARD, domain: Domain = "time") -> Self:
        """The file at ``path``; its trace headers are read, no samples.

        Raises:
            SaltsegError: if it is no whole SEG-Y file, of a kind that segyio doesn't read, or pre-stack.
        """
        try:
            import segyio
        except ImportError as error:
            raise SaltsegError("SEG-Y needs segyio: pip install 'saltseg[segy]'.") from error
        layout = read_layout(Path(path))
        try:
            file = segyio.open(str(path), ignore_geometry=True, endian=layout.endian)
        except (OSError, RuntimeError, ValueError) as error:
            raise SaltsegError(f"{path}: segyio can't read it: {error}.") from error
        try:
            if (len(file.samples), file.tracecount) != (layout.samples, layout.traces):
                raise SaltsegError(
                    f"{path}: its headers are ambiguous: {layout.traces} traces of {layout.samples} samples, "
                    f"or {file.tracecount} of {len(file.samples)} as segyio understands them."
                )
            return cls(Path(path), keys, domain, layout, file)
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def numbers(self, direction: Direction) -> list[int]:
        """The numbers of the inlines or crosslines, rising; of a 2-D line ``[0]``."""
        return self._lines.numbers[direction].tolist() if self.is_cube else [0]

    def section(self, direction: Direction, number: int) -> Section:
        """One line; of a 2-D line the whole, whose number is 0 in either direction.

        Raises:
            SaltsegError: if there is no such line or it can't be read.
        """
        if number not in self.numbers(direction):
            lines = self.numbers(direction)
            raise SaltsegError(f"{self.path} has no {direction} {number}: there are {lines[0]} … {lines[-1]}.")
        if not self.is_cube:
            traces = np.arange(self.traces)
            return Section(self._samples(traces), traces, self._lines.label)
        along, across = (self.inline, self.crossline)[:: 1 if direction == "inline" else -1]
        traces = np.flatnonzero((along == number) & self._lines.placed)
        traces = traces[np.argsort(across[traces], kind="stable")]
        return Section(self._samples(traces), traces, across[traces])

    def headers(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """All trace headers in pieces: the number of the first trace, and n×240 bytes."""
        with _io("read", self.path):
            yield from pieces(self.path, self.layout)

    def _samples(self, traces: NDArray[np.int64]) -> NDArray[np.float32]:
        """Samples × traces; read in the order of the file, in one go where that is evenly spaced."""
        order = np.argsort(traces, kind="stable")
        sorted_ = traces[order]
        steps = np.diff(sorted_)
        with _io("read", self.path):
            if len(sorted_) > 1 and (steps == steps[0]).all():
                read = self._file.trace.raw[int(sorted_[0]) : int(sorted_[-1]) + 1 : int(steps[0])]
            else:
                read = np.stack([self._file.trace.raw[int(k)] for k in sorted_])
        amplitude = np.empty((self.samples, len(traces)), np.float32)
        amplitude[:, order] = read.T
        return amplitude


class Copy:
    """A new SEG-Y with all headers of another and other samples; appears at ``path`` whole at the end or not at all.

    Text headers, binary header and trace headers are those of ``source`` byte for byte, in its byte order, but for
    the code of the sample format (bytes 3225–3226) and one line of the text header that says what this is. Used as a
    context manager; an exception inside it leaves no file.

    To be able to go on after an interruption, give ``resume``. Then ``<name>.part`` beside ``path`` stays, with
    ``<name>.part.done`` that keeps account of it, and the next Copy of the same source with the same ``resume``,
    ``note``, ``format`` and ``null`` goes on with them: :attr:`written` says which traces are there already.

    Args:
        source: where the headers come from; stays open for as long.
        path: of the new file; one that exists is replaced at the end.
        note: what this is, up to 76 characters; the rest is cut.
        format: of the samples. ``same`` keeps a float format (IBM, IEEE, double); a source of integers, which can't
            hold a probability, gets IEEE floats.
        null: what traces have that are never written, and samples that are written as NaN (IBM floats know none).
            The default lies outside of a probability, but not so far that it spoils a colour scale.
        resume: all that the values depend on (run, settings), in any words.

    Attributes:
        written: of each trace, whether it is written.

    Raises:
        SaltsegError: if the file can't be written (a full disk), when entered, written to or left.
    """

    def __init__(
        self,
        source: Segy,
        path: Path,
        *,
        note: str,
        format: Literal["same", "ibm", "ieee"] = "same",  # noqa: A002 (the word for it)
        null: float = -1.0,
        resume: str | None = None,
    ) -> None:
        own = source.layout.format if source.layout.format in FLOATS else IEEE
        code = {"same": own, "ibm": IBM, "ieee": IEEE}[format]
        headers = with_format(source.layout.headers, source.layout.order, code)
        headers = with_note(headers[:TEXT], note) + headers[TEXT:]
        self.source, self.path, self.null, self.resume = source, Path(path), null, resume
        self.layout = Layout(headers, source.layout.order, code, source.samples, source.traces)
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.account = self.path.with_name(f"{self.path.name}.part.done")
        self.written = np.zeros(source.traces, bool)

    def __enter__(self) -> Self:
        import segyio

        with _io("written", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir() or (self.path.exists() and self.path.samefile(self.source.path)):
                what = "a directory" if self.path.is_dir() else "the file that is read"
                raise SaltsegError(f"{self.path} is {what}: give another name to what is written.")
            try:
                if not self._goes_on():
                    self._begin()
                self._file = segyio.open(str(self.part), "r+", ignore_geometry=True, endian=self.layout.endian)
            except BaseException:
                self._remove()
                raise
        return self

    def write(self, traces: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Put ``values`` (samples × traces, float32) into these traces, in any order and more than once."""
        if values.shape != (self.source.samples, len(traces)):
            raise ValueError(f"values {values.shape} for {len(traces)} traces of {self.source.samples} samples")
        # A copy also because segyio converts in place and back again, which rounds.
        rows = np.where(np.isnan(values), self.null, values).T.astype(self._file.dtype, order="C")
        with _io("written", self.path):
            for k, row in zip(traces.tolist(), rows, strict=True):
                self._file.trace[k] = row
            self._file.flush()
            with self.part.open("r+b") as file, self.account.open("r+b") as account:
                os.fsync(file)  # what the account says holds after a power cut, too
                for k in traces.tolist():
                    account.seek(_KEY + k)
                    account.write(b"\1")
        self.written[traces] = True

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for rest in np.array_split(np.flatnonzero(~self.written), 1 + (~self.written).sum() // CHUNK):
                    self.write(rest, np.full((self.source.samples, len(rest)), np.nan, np.float32))
                with _io("written", self.path):
                    self._file.close()
                    self.part.replace(self.path)
                    self.account.unlink()
        finally:
            self._file.close()  # a second time does nothing
            if self.resume is None:
                self._remove()

    def _key(self) -> bytes:
        """Tells this copy from all others."""
        state = self.source.path.stat()
        what = (self.layout.headers, state.st_size, state.st_mtime_ns, self.null, self.resume)
        return hashlib.sha256(repr(what).encode()).digest()

    def _goes_on(self) -> bool:
        """Whether an earlier attempt at the same copy is there; takes over what it has written."""
        if self.resume is None or not self.part.exists() or not self.account.exists():
            return False
        account = self.account.read_bytes()
        size = self.layout.offset(self.layout.traces)
        whole = len(account) == _KEY + self.layout.traces and self.part.stat().st_size == size
        if not whole or account[:_KEY] != self._key():
            return False
        self.written = np.frombuffer(account, bool, offset=_KEY).copy()
        return True

    def _begin(self) -> None:
        """All headers, and samples of 0: a disk that is too small shows before hours of work, not after."""
        self._remove()
        with self.part.open("xb") as file:
            file.write(self.layout.headers)
            for _, piece in self.source.headers():
                for header in piece:
                    file.write(header.data)
                    file.write(bytes(self.layout.trace_bytes - TRACE))
        self.account.write_bytes(self._key() + bytes(self.layout.traces))

    def _remove(self) -> None:
        self.account.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


@contextmanager
def _io(done: str, path: Path) -> Iterator[None]:
    """Tells of the system's errors in one line: that ``path`` can't be ``done``, and why."""
    try:
        yield
    except OSError as error:
        raise SaltsegError(f"{path} can't be {done}: {error.strerror or error}.") from error
