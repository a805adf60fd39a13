"""What came of a survey, in figures: python tests/survey_check.py survey.sgy result.sgy [salt.sgy].

Are the headers those of the survey, is there a seam at any distance from the tiles' borders, and how good is the result
against the true salt?
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saltseg.data.segy import Segy

TEXT, BINARY, TRACE = 3200, 400, 240
#: Byte of the sample format in the file's header, which may change.
FORMAT = slice(TEXT + 24, TEXT + 26)


def headers(survey: Path, result: Path) -> dict[str, int]:
    """How many trace headers, lines of the text header and other bytes of the binary header differ."""
    with Segy.open(survey) as before, Segy.open(result) as after:
        pairs = zip(before.headers(), after.headers(), strict=True)
        traces = sum(int((a != b).any(axis=1).sum()) for (_, a), (_, b) in pairs)
    with survey.open("rb") as first, result.open("rb") as second:
        a, b = (np.frombuffer(file.read(TEXT + BINARY), np.uint8).copy() for file in (first, second))
    lines = (a[:TEXT] != b[:TEXT]).reshape(40, 80).any(axis=1).sum()
    a[FORMAT] = b[FORMAT]
    return {"trace headers": traces, "text lines": int(lines), "binary bytes": int((a[TEXT:] != b[TEXT:]).sum())}


def seam(probability: NDArray[np.float32], stride: int, axis: int) -> float:
    """The mean jump between neighbours at the worst distance from a tile's border, over the mean jump.

    Tiles begin ``stride`` apart; where is of no interest, all ``stride`` places are tried. 1 is no seam at all; some
    excess is chance, for a maximum is taken: compare with a stride that no tile has.
    """
    jumps = np.abs(np.diff(probability, axis=axis))
    known = np.isfinite(jumps).any(axis=1 - axis)
    jumps = np.nanmean(np.compress(known, jumps, axis=axis), axis=1 - axis)
    phases = [jumps[k::stride].mean() for k in range(stride)]
    return float(np.max(phases) / jumps.mean())


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threshold", type=float, default=0.5)
    survey, result, *truth = parser.parse_args().files
    threshold = parser.parse_args().threshold
    print("differ:", ", ".join(f"{count} {what}" for what, count in headers(survey, result).items()))
    with Segy.open(result) as found:
        sections = [found.section("inline", number).amplitude for number in found.numbers("inline")]
    maps = [np.where(section < 0, np.nan, section) for section in sections]
    for axis, name in enumerate(("samples", "traces")):
        tiles, other = (seam(np.concatenate(maps, axis=1 - axis), stride, axis) for stride in (64, 61))
        print(f"worst jump over mean jump, every 64 {name}: {tiles:.2f}; every 61, where no tile begins: {other:.2f}")
    if truth:
        with Segy.open(truth[0]) as salt:
            true = [salt.section("inline", number).amplitude > 0 for number in salt.numbers("inline")]
        live = [~np.isnan(m) for m in maps]
        inside = sum(int(((m > threshold) & t & k).sum()) for m, t, k in zip(maps, true, live, strict=True))
        either = sum(int((((m > threshold) | t) & k).sum()) for m, t, k in zip(maps, true, live, strict=True))
        print(f"IoU over all live samples: {inside / either:.4f}")


if __name__ == "__main__":
    main()
