"""SEG-Y files: what is read is what was written, and a copy has every header of its source."""

import logging
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from survey_maker import LARGEST, Recipe, coordinates, ibm, longest, main, model, recorded, write

from saltseg.data.segy import Copy, Keys, Segy
from saltseg.data.segy_layout import with_note
from saltseg.errors import SaltsegError

segyio = pytest.importorskip("segyio")

SHAPE = (5, 7, 20)  # inlines × crosslines × samples
CUBE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def make(path: Path, cube: np.ndarray = CUBE, **recipe: Any) -> Path:
    write(path, cube, Recipe(scale=1 if recipe.get("format", 1) not in LARGEST else None, **recipe))
    return path


def patch(path: Path, byte: int, kind: str, *values: float) -> Path:
    """Overwrite words from ``byte`` of the file on, counted from 1."""
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, byte - 1, *values)
    path.write_bytes(content)
    return path


def patch_traces(path: Path, byte: int, kind: str, values: Any) -> Path:
    """Overwrite a word of each trace header (IBM or IEEE floats, big endian)."""
    content = bytearray(path.read_bytes())
    for k, value in enumerate(values):
        struct.pack_into(">" + kind, content, 3600 + k * (240 + 4 * SHAPE[2]) + byte - 1, value)
    path.write_bytes(content)
    return path


def sections(survey: Segy, direction: Any = "inline") -> Iterator[Any]:
    for number in survey.numbers(direction):
        yield survey.section(direction, number)


def copied(path: Path, to: Path, **more: Any) -> Path:
    """A copy of the file with its own samples, written line by line in a mixed order."""
    with Segy.open(path) as survey, Copy(survey, to, note="SALT PROBABILITY", **more) as copy:
        for section in sorted(sections(survey), key=lambda s: s.traces[0] % 7):
            copy.write(section.traces, section.amplitude)
    return to


# What is read.


@pytest.mark.parametrize("endian", ["big", "little"])
@pytest.mark.parametrize("code", [1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 16])
def test_a_cube_of_any_format_and_byte_order(tmp_path: Path, code: int, endian: str) -> None:
    with Segy.open(make(tmp_path / "x.sgy", format=code, endian=endian)) as survey:
        assert (survey.is_cube, survey.traces, survey.samples) == (True, 35, 20)
        assert survey.numbers("inline") == [1001, 1002, 1003, 1004, 1005]
        assert survey.numbers("crossline") == [2040, 2042, 2044, 2046, 2048, 2050, 2052]
        scale = LARGEST[code] / np.abs(CUBE).max() if code in LARGEST else 1
        zero = LARGEST[code] if code in (10, 11, 12, 16) else 0
        # IBM floats have 21 to 24 bits; integers are rounded, those beyond 24 bits once more in float32.
        close = {"rtol": 1e-6, "atol": max(0.51, 2e-7 * LARGEST[code]) if code in LARGEST else 0}
        for k, section in enumerate(sections(survey)):
            assert section.amplitude.dtype == np.float32
            np.testing.assert_allclose(section.amplitude, CUBE[k].T * np.float32(scale) + np.float32(zero), **close)
            assert section.across.tolist() == survey.numbers("crossline")
        for k, section in enumerate(sections(survey, "crossline")):
            np.testing.assert_allclose(section.amplitude, CUBE[:, k].T * np.float32(scale) + np.float32(zero), **close)
            assert section.across.tolist() == survey.numbers("inline")


@pytest.mark.parametrize("order", ["inline", "crossline", "shuffled"])
def test_lines_are_found_in_any_order_and_with_gaps(tmp_path: Path, order: str) -> None:
    path = tmp_path / "x.sgy"
    places = write(path, CUBE, Recipe(order=order, missing=0.1, dead=0.1, format=5, scale=1))
    there = np.zeros(SHAPE[:2], bool)
    there[places.inline, places.crossline] = True
    assert 20 < there.sum() < 35
    with Segy.open(path) as survey:
        assert survey.traces == there.sum()
        np.testing.assert_array_equal(survey.dead, places.dead)
        assert 0 < survey.dead.sum() < 10
        for direction, cube, has in (("inline", CUBE, there), ("crossline", CUBE.swapaxes(0, 1), there.T)):
            for k, section in enumerate(sections(survey, direction)):
                expected = cube[k][has[k]].T * ~survey.dead[section.traces]
                np.testing.assert_array_equal(section.amplitude, expected)
                assert (np.diff(section.across) > 0).all()
                assert len(section.across) == has[k].sum()


def test_words_of_the_headers(tmp_path: Path) -> None:
    path = make(tmp_path / "x.sgy", interval=2000, delay=-300, scalar=-10)
    with Segy.open(path) as survey:
        assert (survey.interval, survey.start, survey.domain) == (2.0, -300.0, "time")
        east, north = coordinates(2, 3)
        assert survey.x[2 * 7 + 3] == pytest.approx(east, abs=0.051)
        assert survey.y[2 * 7 + 3] == pytest.approx(north, abs=0.051)
    with Segy.open(path, domain="depth") as survey:
        assert (survey.interval, survey.domain) == (2.0, "depth")


@pytest.mark.parametrize(("scalar", "expected"), [(-100, 12.34), (10, 12340), (0, 1234), (1, 1234)])
def test_coordinate_scalar(tmp_path: Path, scalar: int, expected: float) -> None:
    path = patch_traces(make(tmp_path / "x.sgy", scalar=scalar), 181, "i", [1234] * 35)
    with Segy.open(path) as survey:
        assert survey.x.tolist() == pytest.approx([expected] * 35)


@pytest.mark.parametrize(
    ("binary", "trace", "expected"), [(4000, 2000, 4.0), (0, 2000, 2.0), (40000, 40000, 40.0), (0, 0, 4.0)]
)
def test_sample_interval(tmp_path: Path, binary: int, trace: int, expected: float, caplog: Any) -> None:
    path = patch_traces(make(tmp_path / "x.sgy"), 117, "H", [trace] * 35)
    with caplog.at_level(logging.WARNING), Segy.open(patch(path, 3217, ">H", binary)) as survey:
        assert survey.interval == expected
    assert ("no sample interval" in caplog.text) == (binary == trace == 0)


def test_delays_are_scaled_and_differing_ones_told(tmp_path: Path, caplog: Any) -> None:
    path = patch_traces(make(tmp_path / "x.sgy", delay=12), 215, "h", [10] * 35)
    with Segy.open(path) as survey:
        assert survey.start == 120
    assert not caplog.text
    with Segy.open(patch_traces(path, 109, "h", [12] * 34 + [20])) as survey:
        assert survey.start == 120
    assert "120 … 200" in caplog.text


def test_line_numbers_and_coordinates_may_lie_elsewhere(tmp_path: Path) -> None:
    path = make(tmp_path / "x.sgy")
    path = patch_traces(patch_traces(path, 189, "i", [0] * 35), 193, "i", [0] * 35)
    with Segy.open(path) as survey:
        assert not survey.is_cube
    for byte, values in ((231, [4 + k // 7 for k in range(35)]), (236, [1 + k % 7 for k in range(35)])):  # odd ones
        path = patch_traces(path, byte, "i", values)
    with Segy.open(path, Keys(231, 236, x=9, y=13)) as survey:
        assert survey.numbers("inline") == [4, 5, 6, 7, 8]
        assert survey.numbers("crossline") == [1, 2, 3, 4, 5, 6, 7]
        assert survey.x[-1] == pytest.approx(0.05)
        np.testing.assert_allclose(survey.section("inline", 6).amplitude, CUBE[2].T, rtol=1e-6)
    with pytest.raises(SaltsegError, match=r"inline at byte 238: .*1 … 237"):
        Segy.open(path, Keys(inline=238))


def test_a_2d_line_is_one_section(tmp_path: Path) -> None:
    with Segy.open(make(tmp_path / "x.sgy", CUBE[2:3], line=True, format=5)) as survey:
        assert (survey.is_cube, survey.numbers("inline"), survey.numbers("crossline")) == (False, [0], [0])
        for direction in ("inline", "crossline"):
            section = survey.section(direction, 0)
            np.testing.assert_array_equal(section.amplitude, CUBE[2].T)
            assert section.traces.tolist() == list(range(7))
            assert section.across.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_labels_of_a_2d_line(tmp_path: Path) -> None:
    path = make(tmp_path / "x.sgy", CUBE[2:3], line=True)
    for cdps, expected in (([0] * 7, range(1, 8)), ([5, 5, 6, 6, 7, 7, 8], range(1, 8)), (range(90, 83, -1),) * 2):
        with Segy.open(patch_traces(path, 21, "i", cdps)) as survey:
            assert survey.section("inline", 0).across.tolist() == list(expected)


def test_what_is_no_cube(tmp_path: Path) -> None:
    staircase = [(k // 2 + 1, (k + 1) // 2 + 1) for k in range(35)]  # a crooked line through a grid
    one_inline = [(1, k + 1) for k in range(35)]
    cross = [(9, k) for k in range(18)] + [(k, 9) for k in range(50, 67)]  # an inline and a crossline
    two = [(k % 2 + 1, k // 2) for k in range(34)] + [(1, 17)]
    for pairs, is_cube in ((staircase, False), (one_inline, False), (cross, False), (two, True)):
        path = make(tmp_path / "x.sgy")
        for byte, column in zip((189, 193), zip(*pairs, strict=True), strict=True):
            patch_traces(path, byte, "i", column)
        with Segy.open(path) as survey:
            assert survey.is_cube is is_cube


def test_a_cube_without_its_numbers_is_told(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    path = make(tmp_path / "x.sgy", line=True)
    for long, told in ((35, False), (34, True)):
        monkeypatch.setattr("saltseg.data.segy_headers.LONG", long)
        with Segy.open(path) as survey:
            assert not survey.is_cube
        assert ("one 2-D line of 35 traces" in caplog.text) == told


def test_padding_between_traces_is_no_line(tmp_path: Path) -> None:
    path = make(tmp_path / "x.sgy", format=5)
    for byte, kind, value in ((189, "i", 0), (193, "i", 0), (29, "h", 2)):
        for k in (3, 4, 11):
            patch(path, 3600 + k * (240 + 80) + byte, ">" + kind, value)
    with Segy.open(path) as survey:
        assert survey.numbers("inline") == [1001, 1002, 1003, 1004, 1005]
        assert survey.section("inline", 1001).traces.tolist() == [0, 1, 2, 5, 6]


def test_nan_and_clipped_samples_come_as_they_are(tmp_path: Path) -> None:
    cube = np.clip(CUBE, -1, 1)
    cube[1, 2, 3] = np.nan
    with Segy.open(make(tmp_path / "x.sgy", cube, format=5)) as survey:
        np.testing.assert_array_equal(survey.section("inline", 1002).amplitude, cube[1].T)


def test_segyio_finds_the_same_in_a_regular_cube(tmp_path: Path) -> None:
    path = copied(make(tmp_path / "x.sgy"), tmp_path / "y.sgy")
    with Segy.open(path) as survey, segyio.open(path) as peer:
        assert peer.ilines.tolist() == survey.numbers("inline")
        assert peer.xlines.tolist() == survey.numbers("crossline")
        np.testing.assert_array_equal(peer.iline[1003].T, survey.section("inline", 1003).amplitude)
        np.testing.assert_array_equal(peer.xline[2044].T, survey.section("crossline", 2044).amplitude)


# What is no survey.


def test_ibm_floats() -> None:
    assert [hex(w) for w in ibm(np.array([-118.625, 0, 1, 0.1, 16]))] == [
        "0xc276a000", "0x0", "0x41100000", "0x4019999a", "0x42100000",
    ]  # fmt: skip


@pytest.mark.parametrize("line", [False, True])
def test_prestack_data_is_refused(tmp_path: Path, line: bool) -> None:
    path = make(tmp_path / "x.sgy", line=line)
    for byte, values in ((189, [k // 14 for k in range(35)]), (193, [k // 2 % 7 for k in range(35)])):
        patch_traces(path, byte, "i", [0] * 35 if line else values)
    patch_traces(path, 21, "i", [k // 2 for k in range(35)])
    patch_traces(path, 37, "i", [k % 2 * 100 for k in range(35)])
    with pytest.raises(SaltsegError, match=r"17 of 35 traces .* pre-stack .* stack it first") as caught:
        Segy.open(path)
    assert ("CDP" in str(caught.value)) == line


def bad(path: Path, kind: str) -> None:
    make(path, format=5)
    if kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
    elif kind in ("empty", "short", "headers", "cut", "cut header"):
        size = {"empty": 0, "short": 3599, "headers": 3600, "cut": 3600 + 9 * 320 + 300, "cut header": 3600 + 320 + 9}
        path.write_bytes(path.read_bytes()[: size[kind]])
    elif kind == "text":
        path.write_text("Salt is rock.\n" * 1000)
    else:
        word = {
            "no samples": (3221, ">H", 0), "many samples": (3221, ">H", 60000), "other samples": (3221, ">H", 21),
            "fixed gain": (3225, ">H", 4), "24 bit": (3225, ">H", 7), "unknown": (3225, ">H", 17),
            "zero": (3225, ">H", 0), "open text": (3505, ">h", -1), "headers beyond": (3505, ">h", 900),
            "two headers": (3501, ">hh2xi", 0x200, 1, 1), "late start": (3501, ">h18xQ", 0x200, 4000),
            "trailer": (3501, ">h26xi", 0x200, 1),
        }[kind]  # fmt: skip
        patch(path, *word)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("directory", "can't be read: Is a directory"),
        ("missing", "can't be read: No such file"),
        ("empty", "no SEG-Y file: it has 0 bytes"),
        ("short", "no SEG-Y file: it has 3599 bytes"),
        ("headers", "holds no trace"),
        ("cut", "after 9 whole traces of 20 samples 300 bytes are left over. It is cut off"),
        ("cut header", "after 1 whole traces of 20 samples 9 bytes"),
        ("text", "no SEG-Y file: bytes 3225–3226 hold"),
        ("no samples", "0 samples per trace"),
        ("many samples", r"after 0 whole traces of 60000 samples \(the first trace itself says 20\)"),
        ("other samples", "sample count of its binary header"),
        ("fixed gain", r"fixed point with gain \(format code 4\).*convert"),
        ("24 bit", "24-bit integers"),
        ("unknown", "hold 17, no code of a sample format"),
        ("zero", "hold 0, no code"),
        ("open text", "an unstated number of extended text headers"),
        ("headers beyond", "holds no trace"),
        ("two headers", "more than one header per trace"),
        ("late start", "its first trace at byte 4000"),
        ("trailer", "a trailer after the last trace"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "bad.sgy"
    bad(path, kind)
    with pytest.raises(SaltsegError, match=message) as caught:
        Segy.open(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_line(tmp_path: Path) -> None:
    with (
        Segy.open(make(tmp_path / "x.sgy")) as survey,
        pytest.raises(SaltsegError, match="no inline 7: there are 1001 … 1005"),
    ):
        survey.section("inline", 7)


def test_without_segyio_the_extra_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "segyio", None)
    with pytest.raises(SaltsegError, match=r"pip install 'saltseg\[segy\]'"):
        Segy.open(make(tmp_path / "x.sgy"))


# What is written.


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


# The maker itself.


def test_the_salt_of_a_made_cube_is_one_body_across_inlines() -> None:
    amplitude, salt = model(12, 60, 120, thickness=40)
    assert amplitude.shape == salt.shape == (12, 60, 120)
    assert longest(salt[6].T) >= 40
    assert min((a & b).sum() / (a | b).sum() for a, b in pairwise(salt)) > 0.85
    assert (salt[0] != salt[-1]).any()

    def likeness(apart: int) -> float:
        return np.mean([np.corrcoef(amplitude[[k, k + apart]].reshape(2, -1))[0, 1] for k in range(6)])

    assert likeness(1) > 0.8  # signal and noise
    assert 0.3 < likeness(6) < 0.7  # the signal alone


def test_what_a_recording_makes_of_amplitudes() -> None:
    made = recorded(np.full((2, 10, 100), 2, np.float32), mute=20, water=30, decay=4, clip=1.5)
    assert (made[:, 0, :10] == 0).all()
    assert (made[:, -1, :20] == 0).all()
    assert 0 < made[0, 0, 29] < 0.01
    assert made[0, 0, 30] > 0.9
    assert made[0, 0, 99] == pytest.approx(1.5 / 4)


def test_the_maker_as_a_script(tmp_path: Path, monkeypatch: Any) -> None:
    sizes = "--inlines 3 --crosslines 30 --samples 50 --missing 0.1 --dead 0.1 --order shuffled --endian little"
    monkeypatch.setattr(sys, "argv", ["survey_maker.py", str(tmp_path / "o.sgy"), *sizes.split()])
    main()
    with Segy.open(tmp_path / "o.sgy") as survey, Segy.open(tmp_path / "o_salt.sgy") as salt:
        np.testing.assert_array_equal(survey.inline, salt.inline)
        np.testing.assert_array_equal(survey.crossline, salt.crossline)
        values = np.concatenate([s.amplitude for s in sections(salt)], axis=1)
        assert set(np.unique(values)) == {0, 1}
        assert survey.dead.any()
        assert not salt.dead.any()
