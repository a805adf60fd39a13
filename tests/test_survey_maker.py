"""The maker of surveys: its salt is one body, and its files say what they should."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segy_files import sections
from survey_maker import ibm, longest, main, model, recorded

from saltseg.data.segy import Segy


def test_ibm_floats() -> None:
    assert [hex(w) for w in ibm(np.array([-118.625, 0, 1, 0.1, 16]))] == [
        "0xc276a000", "0x0", "0x41100000", "0x4019999a", "0x42100000",
    ]  # fmt: skip


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
    pytest.importorskip("segyio")
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
