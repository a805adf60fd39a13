"""A copy of a SEG-Y has every header of its source, appears whole or not at all, and goes on where it stopped."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segy_files import CUBE, copied, make, sections
from survey_maker import Recipe, write

from saltseg.data.segy import Copy, Segy
from saltseg.data.segy_layout import with_note
from saltseg.errors import SaltsegError

pytest.importorskip("segyio")


@pytest.mark.parametrize("target", ["same", "ibm", "ieee"])
@pytest.mark.parametrize(
    "recipe",
    [
        {"format": 1, "order": "crossline", "dead": 0.1},
        {"format": 5, "endian": "little", "order": "shuffled", "missing": 0.1, "extended": 2},
        {"format": 6, "text": "ascii", "scalar": 10, "delay": 250},
        {"format": 3, "endian": "little", "text": "ascii", "extended": 1},
        {"format": 8, "line": True},
    ],
    ids=str,
)
def test_a_copy_has_every_header_of_its_source(tmp_path: Path, recipe: dict[str, Any], target: str) -> None:
    source = make(tmp_path / "x.sgy", **recipe)
    path = copied(source, tmp_path / "deep/er/y.sgy", format=target)
    order = "<" if recipe.get("endian") == "little" else ">"
    code = {"ibm": 1, "ieee": 5, "same": recipe["format"] if recipe["format"] in (1, 5, 6) else 5}[target]
    before, after = source.read_bytes(), path.read_bytes()
    # By hand, at fixed offsets: text, binary header, extended text, then header and samples of each trace.
    differing = {k // 80 for k in range(3200) if before[k] != after[k]}
    assert len(differing) == 1
    line = after[differing.pop() * 80 :][:80].decode(recipe.get("text", "cp037"))
    assert line == f"C 6 {'SALT PROBABILITY':76}"
    expected = bytearray(before[3200:3600])
    struct.pack_into(order + "H", expected, 24, code)
    assert after[3200:3600] == expected
    first = 3600 + 3200 * recipe.get("extended", 0)
    assert after[3600:first] == before[3600:first]
    old, new = (240 + 20 * {1: 4, 3: 2, 5: 4, 6: 8, 8: 1}[c] for c in (recipe["format"], code))
    traces = (len(before) - first) // old
    assert len(after) == first + traces * new
    for k in range(traces):
        assert after[first + k * new :][:240] == before[first + k * old :][:240]
    with Segy.open(source) as one, Segy.open(path) as other:
        for a, b in zip(sections(one), sections(other), strict=True):
            np.testing.assert_allclose(b.amplitude, a.amplitude, rtol=1e-6 if code == 1 else 0)
            np.testing.assert_array_equal(b.traces, a.traces)
    if code == recipe["format"]:
        assert after[first:] == before[first:]
    assert sorted(p.name for p in path.parent.iterdir()) == ["y.sgy"]


def test_a_copy_reads_as_ibm_floats_by_hand(tmp_path: Path) -> None:
    with Segy.open(make(tmp_path / "x.sgy", format=5)) as survey:
        with Copy(survey, tmp_path / "y.sgy", note="x", format="ibm") as copy:
            copy.write(np.array([4]), np.full((20, 1), -118.625, np.float32))
        word = struct.unpack_from(">I", (tmp_path / "y.sgy").read_bytes(), 3600 + 4 * 320 + 240)[0]
    assert word == 0xC276A000


@pytest.mark.parametrize(
    ("more", "null"),
    [({}, -1), ({"null": -999.25}, -999.25), ({"format": "ieee", "null": np.nan}, np.nan)],
)
def test_what_has_no_value_is_null(tmp_path: Path, more: dict[str, Any], null: float) -> None:
    values = np.random.default_rng(0).random((20, 3)).astype(np.float32).round(3)
    values[:4, 1] = np.nan
    given = values.copy()
    with Segy.open(make(tmp_path / "x.sgy")) as survey, Copy(survey, tmp_path / "y.sgy", note="x", **more) as copy:
        copy.write(np.array([30, 2, 9]), values)
        assert copy.written.nonzero()[0].tolist() == [2, 9, 30]
    np.testing.assert_array_equal(values, given)  # not what IBM floats make of them
    with Segy.open(tmp_path / "y.sgy") as survey:
        cube = np.stack([s.amplitude for s in sections(survey)], axis=-1)  # samples × crosslines × inlines
        flat = cube.transpose(0, 2, 1).reshape(20, 35)
    np.testing.assert_allclose(flat[:, [30, 2, 9]], np.where(np.isnan(values), null, values), rtol=1e-6)
    np.testing.assert_array_equal(np.delete(flat, [30, 2, 9], axis=1), np.full((20, 32), null, np.float32))


EMPTY = "".join(f"C{k:2d}".ljust(80) for k in range(1, 41))
FULL = "".join(f"C{k:02d} SAID {k}".ljust(80) for k in range(1, 39)) + "C39 SEG Y REV1".ljust(80)


@pytest.mark.parametrize("encoding", ["ascii", "cp037"])
@pytest.mark.parametrize(
    ("text", "line", "start"),
    [
        (EMPTY, 1, "C 1 NOTE"),
        (" " * 3200, 1, "C 1 NOTE"),
        (FULL + "C40 END TEXTUAL HEADER".ljust(80), 38, "C38 NOTE"),
        (FULL + "C40 END EBCDIC".ljust(80), 38, "C38 NOTE"),
        (FULL + "C40".ljust(80), 40, "C40 NOTE"),
        (FULL.replace("C07 SAID 7", "C07       ") + "C40 MORE".ljust(80), 7, "C07 NOTE"),
        ("CLIENT".ljust(80) + " " * 80 + FULL[160:] + "C40 END TEXTUAL HEADER".ljust(80), 2, "C 2 NOTE"),
    ],
)
def test_the_note_takes_one_line(encoding: str, text: str, line: int, start: str) -> None:
    before = text.encode(encoding)
    after = with_note(before, "NOTE " + "x" * 100)
    assert len(after) == 3200
    assert [k + 1 for k in range(40) if before[k * 80 :][:80] != after[k * 80 :][:80]] == [line]
    assert after[(line - 1) * 80 :][:80].decode(encoding) == (start + " " + "x" * 80)[:80]


def test_a_text_header_of_zeros_gets_a_note_too() -> None:
    assert with_note(bytes(3200), "NOTE – n")[:12].decode("cp037") == "C 1 NOTE ? n"


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    source, target = make(tmp_path / "x.sgy"), tmp_path / "y.sgy"
    target.write_bytes(b"old")

    def fail(survey: Segy) -> None:
        with Copy(survey, target, note="x") as copy:
            copy.write(np.array([1]), np.ones((20, 1), np.float32))
            assert target.read_bytes() == b"old"
            raise ZeroDivisionError

    with Segy.open(source) as survey:
        with pytest.raises(ZeroDivisionError):
            fail(survey)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.sgy", "y.sgy"]
        assert target.read_bytes() == b"old"
        with pytest.raises(SaltsegError, match="is the file that is read"), Copy(survey, source, note="x"):
            pass
        with pytest.raises(SaltsegError, match="is a directory"), Copy(survey, tmp_path, note="x"):
            pass
        with Copy(survey, target, note="x") as copy, pytest.raises(ValueError, match=r"\(3, 1\) for 1 traces of 20"):
            copy.write(np.array([1]), np.ones((3, 1), np.float32))
    assert source.exists()


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    source = make(tmp_path / "x.sgy")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Segy.open(source) as survey:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
        try:
            with pytest.raises(SaltsegError, match=r"y\.sgy can't be written: File too large"):
                Copy(survey, tmp_path / "y.sgy", note="x", resume="any").__enter__()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["x.sgy"]


def interrupt(survey: Segy, path: Path, after: int, resume: str) -> int:
    """Copies inlines until ``after`` of them are written; returns how many traces were there from before."""
    with Copy(survey, path, note="x", resume=resume) as copy:
        before = int(copy.written.sum())
        for section in sections(survey):
            if not copy.written[section.traces].all():
                if after == 0:
                    raise KeyboardInterrupt
                copy.write(section.traces, section.amplitude / 2)
                after -= 1
    return before


def test_an_interrupted_copy_goes_on(tmp_path: Path) -> None:
    source, path = make(tmp_path / "x.sgy", missing=0.1, order="shuffled"), tmp_path / "y.sgy"
    with Segy.open(source) as survey:
        assert interrupt(survey, tmp_path / "whole.sgy", 99, "a") == 0
        with pytest.raises(KeyboardInterrupt):
            interrupt(survey, path, 2, "a")
        assert not path.exists()
        assert {p.name for p in tmp_path.iterdir()} >= {"y.sgy.part", "y.sgy.part.done"}
        with pytest.raises(KeyboardInterrupt):
            interrupt(survey, path, 1, "a")
        there = sum(len(s.traces) for s in list(sections(survey))[:3])
        assert interrupt(survey, path, 99, "a") == there
    assert path.read_bytes() == (tmp_path / "whole.sgy").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"x.sgy", "y.sgy", "whole.sgy"}


@pytest.mark.parametrize("change", ["settings", "source", "cut", "none given"])
def test_what_does_not_fit_is_begun_anew(tmp_path: Path, change: str) -> None:
    source, path = make(tmp_path / "x.sgy"), tmp_path / "y.sgy"
    with Segy.open(source) as survey, pytest.raises(KeyboardInterrupt):
        interrupt(survey, path, 3, "a")
    if change == "source":
        make(source, CUBE[::-1])
        os.utime(source, ns=(10**18, 10**18))  # a clock too coarse to tell
    if change == "cut":
        part = tmp_path / "y.sgy.part"
        part.write_bytes(part.read_bytes()[:-1])
    with Segy.open(source) as survey:
        if change == "none given":
            with Copy(survey, path, note="x") as copy:
                assert not copy.written.any()
        else:
            assert interrupt(survey, path, 99, "b" if change == "settings" else "a") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"x.sgy", "y.sgy"}


# The peak that the kernel keeps of this program alone; getrusage would include the process that forked it.
READ_AND_COPY = """
import sys
from pathlib import Path
import segyio
from saltseg.data.segy import Copy, Segy
with Segy.open(Path(sys.argv[1])) as survey, Copy(survey, Path(sys.argv[1] + ".copy"), note="x") as copy:
    for direction in ("crossline", "inline"):
        number = survey.numbers(direction)[0]
        section = survey.section(direction, number)
        copy.write(section.traces, section.amplitude)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux")
def test_memory_does_not_grow_with_the_survey(tmp_path: Path) -> None:
    peaks, sizes = [], []
    for inlines in (100, 400):  # 18 MB and 74 MB
        path = tmp_path / f"{inlines}.sgy"
        write(path, np.broadcast_to(np.float32(1), (inlines, 50, 800)), Recipe(format=5))
        done = subprocess.run([sys.executable, "-c", READ_AND_COPY, path], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
        sizes.append(path.stat().st_size)
    traces = 300 * 50
    assert sizes[1] - sizes[0] > 50e6
    # 25 bytes kept of each trace and as much while sorting; the crossline is longer by 300 traces of 800 samples.
    assert peaks[1] - peaks[0] < traces * 60 + 3 * 300 * 800 * 4 + 2e6
