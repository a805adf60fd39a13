"""How a SEG-Y file is laid out: what its file headers say, checked against its size before anything is read.

Byte positions count from 1 as in the standard: SEG-Y revision 0 (Barry, Cavers and Kneale, Geophysics 40, 1975),
1 (2002) and 2.0 (2017), SEG Technical Standards Committee.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from saltseg.errors import SaltsegError

TEXT, BINARY, TRACE = 3200, 400, 240  # bytes of the headers
LINE = 80  # bytes of a line of the text header

#: Bytes of a sample by format code, of those that segyio reads.
SIZES = {1: 4, 2: 4, 3: 2, 5: 4, 6: 8, 8: 1, 9: 8, 10: 4, 11: 2, 12: 8, 16: 1}
IBM, IEEE = 1, 5
FLOATS = (IBM, IEEE, 6)
_UNREAD = {4: "fixed point with gain", 7: "24-bit integers", 15: "24-bit unsigned integers"}


@dataclass(frozen=True)
class Layout:
    """Where the traces of a file lie and how their samples are written.

    Attributes:
        headers: all before the first trace: the text header, the binary one, extended text headers.
        order: ``>`` big endian, ``<`` little endian.
        format: code of the sample format.
        samples: of each trace.
        traces: how many.
    """

    headers: bytes
    order: str
    format: int
    samples: int
    traces: int

    @property
    def trace_bytes(self) -> int:
        """Of a trace with its header."""
        return TRACE + self.samples * SIZES[self.format]

    def offset(self, trace: int) -> int:
        """Where in the file the header of ``trace`` begins."""
        return len(self.headers) + trace * self.trace_bytes

    @property
    def endian(self) -> str:
        """The byte order as segyio says it."""
        return "big" if self.order == ">" else "little"

    @property
    def interval(self) -> float:
        """Between samples, µs or mm; 0 where the binary header states none."""
        exact = _word(self.headers, self.order, 3273, "d") if _revision(self.headers) >= 2 else 0
        return exact if 0 < exact < 2**31 else _word(self.headers, self.order, 3217, "H")


def read_layout(path: Path) -> Layout:
    """What the file headers of ``path`` say.

    Raises:
        SaltsegError: if it is no SEG-Y file, not a whole one, or of a kind that can't be read.
    """
    try:
        with path.open("rb") as file:
            headers = file.read(TEXT + BINARY)
            size = file.seek(0, 2)
            if len(headers) < TEXT + BINARY:
                raise SaltsegError(f"{path} is no SEG-Y file: it has {size} bytes, its headers alone take 3600.")
            order, code = _format(path, headers)
            extended = _extended(path, headers, order)
            file.seek(len(headers))
            headers += file.read(extended * TEXT)
            first = file.read(TRACE)
    except OSError as error:
        raise SaltsegError(f"{path} can't be read: {error.strerror or error}.") from error
    samples = int(_word(headers, order, 3221, "H"))
    many = int(_word(headers, order, 3269, "i"))  # what 16 bits don't hold
    if many > 0 and (samples == 0 or _revision(headers) >= 2):
        samples = many
    if samples == 0:
        raise SaltsegError(f"{path}: its binary header says 0 samples per trace (bytes 3221–3222): it can't be read.")
    layout = Layout(headers, order, code, samples, 0)
    traces, rest = divmod(size - layout.offset(0), layout.trace_bytes)
    if traces < 0 or (traces == rest == 0):
        raise SaltsegError(f"{path} holds no trace: it ends with its headers, after {size} bytes.")
    if rest:
        own = struct.unpack_from(layout.order + "H", first.ljust(TRACE, b"\0"), 114)[0]
        hint = f" (the first trace itself says {own})" if own not in (0, samples) else ""
        raise SaltsegError(
            f"{path}: after {traces} whole traces of {samples} samples{hint} {rest} bytes are left over. It is cut off "
            "(copy it again), its traces differ in length, or the sample count of its binary header (bytes 3221–3222) "
            "is wrong."
        )
    return Layout(headers, order, code, samples, traces)


def with_note(text: bytes, note: str) -> bytes:
    """The text header ``text`` (3200 bytes) with ``note`` as one of its lines, in its own encoding.

    It takes the first blank line or, where none is, the last that is neither the revision's nor the end mark. ``Cnn``
    at the beginning of the line stays, or comes where there is none; the note is cut at what then fits, 76 characters.
    """
    encoding = "ascii" if text.count(b" ") > text.count(" ".encode("cp037")) else "cp037"
    lines = [text[k : k + LINE] for k in range(0, TEXT, LINE)]
    words = [line.decode(encoding, "replace").replace("\0", " ").upper() for line in lines]
    marks = ("END TEXTUAL", "END EBCDIC", "END ASCII", "SEG Y REV", "SEG-Y REV", "SEGY REV")
    free = [k for k, line in enumerate(words) if not any(mark in line for mark in marks)]
    blank = [k for k in free if not _after_number(words[k])]
    k = (blank or free[-1:] or [len(lines) - 3])[0]
    number = lines[k][:3] if _numbered(words[k]) else f"C{k + 1:2d}".encode(encoding)
    line = number + f" {note}".encode(encoding, "replace")
    lines[k] = line[:LINE].ljust(LINE, " ".encode(encoding))
    return b"".join(lines)


def with_format(headers: bytes, order: str, code: int) -> bytes:
    """``headers`` with another code of the sample format."""
    return headers[:3224] + struct.pack(order + "H", code) + headers[3226:]


def _numbered(line: str) -> bool:
    return line[0] == "C" and line[1:3].strip().isdigit()


def _after_number(line: str) -> str:
    return (line[3:] if _numbered(line) else line).strip(" .\t\r\n")


def _word(headers: bytes, order: str, byte: int, kind: str) -> int | float:
    value: int | float = struct.unpack_from(order + kind, headers, byte - 1)[0]
    return value


def _format(path: Path, headers: bytes) -> tuple[str, int]:
    """Byte order and sample format: a code below 256 read in the wrong order is above."""
    codes = {order: int(_word(headers, order, 3225, "H")) for order in "><"}
    for order, code in codes.items():
        if code in SIZES:
            return order, code
        if code in _UNREAD:
            raise SaltsegError(
                f"{path}: its samples are {_UNREAD[code]} (format code {code}), which segyio doesn't read: "
                "convert it to IBM or IEEE floats first."
            )
    raise SaltsegError(
        f"{path} is no SEG-Y file: bytes 3225–3226 hold {codes['>']}, no code of a sample format "
        f"({', '.join(map(str, SIZES))}) in either byte order."
    )


def _extended(path: Path, headers: bytes, order: str) -> int:
    """The number of extended text headers.

    Raises:
        SaltsegError: for what segyio doesn't read: an open number of them, more than one header per trace, a trailer.
    """
    number = int(_word(headers, order, 3505, "h"))
    odd = {"an unstated number of extended text headers (bytes 3505–3506)": number < 0}
    if _revision(headers) >= 2:
        first = int(_word(headers, order, 3521, "Q"))
        odd |= {
            "more than one header per trace (bytes 3507–3510)": _word(headers, order, 3507, "i") > 0,
            f"its first trace at byte {first} (bytes 3521–3528)": first not in (0, TEXT + BINARY + number * TEXT),
            "a trailer after the last trace (bytes 3529–3532)": _word(headers, order, 3529, "i") != 0,
        }
    for what, so in odd.items():
        if so:
            raise SaltsegError(f"{path}: its binary header says that it has {what}, which segyio doesn't read.")
    return number


def _revision(headers: bytes) -> int:
    """Major revision: the higher byte of 3501–3502, whichever order that was written in."""
    return max(headers[3500:3502])
