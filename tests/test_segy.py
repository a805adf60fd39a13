"""SEG-Y files: what is read is what was written, and what is no survey is refused in one message."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segy_files import CUBE, SHAPE, copied, make, patch, patch_traces, sections
from survey_maker import LARGEST, Recipe, coordinates, write

from saltseg.data.segy import Keys, Segy
from saltseg.errors import SaltsegError

segyio = pytest.importorskip("segyio")


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


@pytest.mark.parametrize("first", [1001, 0])  # 0: an inline that has the number of the padding
def test_padding_between_traces_is_no_line(tmp_path: Path, first: int) -> None:
    path = make(tmp_path / "x.sgy", format=5, first_inline=first)
    for byte, kind, value in ((189, "i", 0), (193, "i", 0), (29, "h", 2)):
        for k in (3, 4, 11):
            patch(path, 3600 + k * (240 + 80) + byte, ">" + kind, value)
    with Segy.open(path) as survey:
        assert survey.numbers("inline") == list(range(first, first + 5))
        assert survey.section("inline", first).traces.tolist() == [0, 1, 2, 5, 6]


def test_only_the_code_2_is_dead(tmp_path: Path) -> None:
    with Segy.open(patch_traces(make(tmp_path / "x.sgy"), 29, "h", [0, 1, 2, 3, 6, -1, 2] * 5)) as survey:
        assert survey.dead.tolist() == [False, False, True, False, False, False, True] * 5


def test_what_revision_2_says_goes_first(tmp_path: Path) -> None:
    path = make(tmp_path / "x.sgy", format=5)
    for byte, kind, value in ((3501, ">H", 0x200), (3221, ">H", 7), (3269, ">i", 20), (3273, ">d", 312.5)):
        patch(path, byte, kind, value)
    with Segy.open(path) as survey:
        assert (survey.samples, survey.interval, survey.traces) == (20, 0.3125, 35)
        np.testing.assert_array_equal(survey.section("inline", 1002).amplitude, CUBE[1].T)
    assert copied(path, tmp_path / "y.sgy").read_bytes()[3200:] == path.read_bytes()[3200:]


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
