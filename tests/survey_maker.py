"""Surveys in SEG-Y whose salt is known: the project's own synthetic modelling, continued into the third dimension.

``python tests/survey_maker.py out.sgy --inlines 40 --crosslines 60 --samples 200`` writes ``out.sgy`` and its salt,
as a mask, ``out_salt.sgy``. Files are written byte by byte, not by segyio, so that reading them tests something.
"""

import argparse
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from saltseg.data.synthetic import section

DTYPES = {2: "i4", 3: "i2", 5: "f4", 6: "f8", 8: "i1", 9: "i8", 10: "u4", 11: "u2", 12: "u8", 16: "u1"}
LARGEST = {2: 2**30, 3: 32767, 8: 127, 9: 2**40, 10: 2**31 - 1, 11: 32767, 12: 2**40, 16: 127}
ORIGIN, AZIMUTH, BIN = (431_250.4, 6_781_300.7), np.radians(27), (25.0, 12.5)  # m; of inlines, of crosslines


class Drifting:
    """Random numbers for inline ``k`` that :func:`~saltseg.data.synthetic.section` takes for a generator's.

    Single numbers are the same for all inlines. Fields drift: normal numbers turn from one draw into another, always
    with deviation 1, those of the geology over ``length`` inlines, those of the noise over two. So bodies and strata
    continue from inline to inline, and as fast as they change along it.
    """

    def __init__(self, seed: tuple[int, ...], k: int, length: float) -> None:
        self.seed, self.k, self.length, self.calls = seed, k, length, 0

    def _generator(self, *more: int) -> np.random.Generator:
        return np.random.default_rng((*self.seed, self.calls, *more))

    def __getattr__(self, name: str) -> Callable[..., object]:
        self.calls += 1
        return getattr(self._generator(), name)

    def standard_normal(self, size: tuple[int, ...], dtype: type = np.float64) -> np.ndarray:
        self.calls += 1
        knot, part = divmod(self.k / (self.length if len(size) < 3 else 2), 1)
        before, after = (self._generator(int(knot) + i).standard_normal(size, dtype) for i in (0, 1))
        return (before * np.cos(part * np.pi / 2) + after * np.sin(part * np.pi / 2)).astype(dtype)


def model(
    inlines: int, crosslines: int, samples: int, *, seed: int = 0, thickness: int = 0, length: float = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes (float32, deviation near 1) and salt (uint8, 0 and 1), both inlines × crosslines × samples.

    The first try that has between 8% and 60% of salt in its middle inline, at least ``thickness`` samples of it one
    above the other, is taken.
    """
    for attempt in range(1000):
        _, salt = section(Drifting((seed, attempt), inlines // 2, length), samples, crosslines)
        if 0.08 < salt.mean() < 0.6 and longest(salt) >= thickness:
            break
    else:
        raise ValueError(f"no salt {thickness} samples thick in 1000 tries")
    made = [section(Drifting((seed, attempt), k, length), samples, crosslines) for k in range(inlines)]
    amplitude, salt = (np.stack([one[part].T for one in made]) for part in (0, 1))
    return np.ascontiguousarray(amplitude), np.ascontiguousarray(salt)


def longest(salt: np.ndarray) -> int:
    """The greatest number of salt samples one above the other in a section, samples × traces."""
    run, best = np.zeros(salt.shape[1], int), 0
    for row in salt:
        run = (run + 1) * row
        best = max(best, int(run.max()))
    return best


def recorded(amplitude: np.ndarray, *, mute: int = 0, water: int = 0, decay: float = 1, clip: float = 0) -> np.ndarray:
    """What a recording makes of amplitudes, whatever × samples.

    Args:
        amplitude: with deviation near 1.
        mute: samples of zeros at the top, more towards the last trace of a line.
        water: samples with next to no amplitude at the top.
        decay: how many times weaker the last sample is than the first.
        clip: the greatest amplitude before the decay, in deviations; 0: as it is.
    """
    made = np.clip(amplitude, -clip, clip) if clip else amplitude.copy()
    made *= np.geomspace(1, 1 / decay, made.shape[-1], dtype=np.float32)
    made[..., :water] *= 0.003
    if mute:
        slope = np.linspace(0.5, 1, made.shape[-2]) * mute
        made[..., np.arange(made.shape[-1]) < slope[:, None]] = 0
    return made


@dataclass(frozen=True)
class Recipe:
    """How a survey is written.

    Attributes:
        order: of the traces: inline, crossline or shuffled.
        format: code of the sample format; integers are scaled to their range.
        endian: big or little.
        interval: in µs.
        delay: of the first sample, ms.
        scalar: of the coordinates.
        missing: share of traces left out at random, and as much again cut off a corner.
        dead: share of traces that are zero and say so.
        first_inline, first_crossline, step: line numbers; crosslines go by ``step``.
        line: a 2-D line: no inline and crossline numbers, but CDPs.
        text: cp037 (EBCDIC) or ascii.
        extended: extended text headers.
        scale: what integers or floats are multiplied by; None: to 3000, or what the format holds.
        seed: of what is shuffled, missing or dead.
    """

    order: str = "inline"
    format: int = 1
    endian: str = "big"
    interval: int = 4000
    delay: int = 0
    scalar: int = -100
    missing: float = 0.0
    dead: float = 0.0
    first_inline: int = 1001
    first_crossline: int = 2040
    step: int = 2
    line: bool = False
    text: str = "cp037"
    extended: int = 0
    scale: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Places:
    """Where the traces of a written file come from, in its order.

    Attributes:
        inline, crossline: n indices into the model.
        dead: n booleans.
    """

    inline: np.ndarray
    crossline: np.ndarray
    dead: np.ndarray


def write(path: Path, samples: np.ndarray, recipe: Recipe = Recipe(), *, title: str = "AMPLITUDE") -> Places:
    """``samples`` (inlines × crosslines × samples) as SEG-Y. The same recipe leaves out the same traces."""
    order = ">" if recipe.endian == "big" else "<"
    places = _places(samples.shape[:2], recipe)
    scale = recipe.scale
    if scale is None:
        scale = 3000 if recipe.format not in LARGEST else LARGEST[recipe.format] / max(np.abs(samples).max(), 1e-9)
    with Path(path).open("wb") as file:
        file.write(_text(title, samples.shape, recipe))
        file.write(_binary(samples.shape[2], order, recipe))
        for k in range(recipe.extended):
            file.write(f"C 1 EXTENDED TEXT {k}".ljust(3200).encode(recipe.text))
        for k, (i, x, dead) in enumerate(zip(places.inline, places.crossline, places.dead, strict=True)):
            file.write(_trace_header(k, int(i), int(x), bool(dead), samples.shape, order, recipe))
            file.write(encode(samples[i, x] * np.float32(0 if dead else scale), recipe.format, order))
    return places


def encode(values: np.ndarray, code: int, order: str) -> bytes:
    """``values`` in a SEG-Y sample format."""
    if code == 1:
        return ibm(values).astype(order + "u4").tobytes()
    if code in LARGEST:
        values = np.rint(values.astype(float)) + (LARGEST[code] if "u" in DTYPES[code] else 0)
    return values.astype(order + DTYPES[code]).tobytes()


def ibm(values: np.ndarray) -> np.ndarray:
    """IBM floats as unsigned 32-bit: a sign, an exponent of 16 with 64 added, 24 bits of a fraction of 1/16 to 1."""
    fraction, exponent = np.frexp(np.abs(values.astype(np.float64)))
    hexes = -(-exponent // 4)
    bits = np.rint(fraction * 2.0 ** (exponent - 4 * hexes + 24)).astype(np.uint32)
    over = bits >> 24 > 0  # rounded up to the next power
    bits, hexes = np.where(over, bits >> 4, bits), hexes + over
    word = (np.signbit(values).astype(np.uint32) << 31) | ((hexes + 64).astype(np.uint32) << 24) | bits
    return np.where(bits == 0, 0, word).astype(np.uint32)


def _places(shape: tuple[int, int], recipe: Recipe) -> Places:
    rng = np.random.default_rng(recipe.seed)
    inline, crossline = (axis.ravel() for axis in np.indices(shape))
    if recipe.order == "crossline":
        inline, crossline = (axis.T.ravel() for axis in np.indices(shape))
    if recipe.missing:
        corner = inline / shape[0] + crossline / shape[1] < np.sqrt(2 * recipe.missing)
        # Drawn by place, so that the order doesn't matter.
        kept = ~corner & (rng.random(shape)[inline, crossline] >= recipe.missing)
        inline, crossline = inline[kept], crossline[kept]
    dead = rng.random(shape)[inline, crossline] < recipe.dead
    if recipe.order == "shuffled":
        shuffled = rng.permutation(len(inline))
        inline, crossline, dead = inline[shuffled], crossline[shuffled], dead[shuffled]
    return Places(inline, crossline, dead)


def _text(title: str, shape: tuple[int, ...], recipe: Recipe) -> bytes:
    lines = {
        1: "CLIENT NOBODY                 COMPANY NONE              CREW NO 1",
        2: f"LINE SYNTHETIC SALT           DATA {title}",
        3: f"INLINES {shape[0]}  CROSSLINES {shape[1]}  SAMPLES/TRACE {shape[2]}  INTERVAL {recipe.interval} US",
        4: "DATA TRACES/RECORD 1          POLARITY SEG NORMAL, ZERO PHASE",
        5: "INLINE 189-192  CROSSLINE 193-196  CDP X 181-184  CDP Y 185-188",
        39: "SEG Y REV1",
        40: "END TEXTUAL HEADER" if recipe.text == "ascii" else "END EBCDIC",
    }
    return "".join(f"C{k:2d} {lines.get(k, '')}".ljust(80) for k in range(1, 41)).encode(recipe.text)


def _binary(samples: int, order: str, recipe: Recipe) -> bytes:
    header = bytearray(400)
    words = {3201: ("i", 7), 3205: ("i", 9999), 3209: ("i", 1), 3213: ("H", 1), 3217: ("H", recipe.interval)}
    words |= {3219: ("H", recipe.interval), 3221: ("H", samples), 3223: ("H", samples), 3225: ("H", recipe.format)}
    words |= {3227: ("H", 1), 3229: ("H", 4), 3255: ("H", 1), 3501: ("H", 0x100), 3503: ("H", 1)}
    words |= {3505: ("H", recipe.extended), 3401: ("I", 0xDEADBEEF)}  # the last is unassigned
    for byte, (kind, value) in words.items():
        struct.pack_into(order + kind, header, byte - 3201, value)
    return bytes(header)


def _trace_header(k: int, i: int, x: int, dead: bool, shape: tuple[int, ...], order: str, recipe: Recipe) -> bytes:
    east, north = coordinates(i, x)
    scale = -recipe.scalar if recipe.scalar < 0 else 1 / max(recipe.scalar, 1)
    cdp = 1 + x if recipe.line else 1 + i * shape[1] + x
    header = bytearray(240)
    words = {1: ("i", k + 1), 5: ("i", k + 1), 9: ("i", 1 + i), 13: ("i", 1 + x), 21: ("i", cdp), 25: ("i", 1)}
    words |= {29: ("h", 2 if dead else 1), 31: ("h", 1), 33: ("h", 24), 35: ("h", 1), 69: ("h", 1)}
    words |= {71: ("h", recipe.scalar), 89: ("h", 1), 109: ("h", recipe.delay), 115: ("H", shape[2])}
    words |= {117: ("H", recipe.interval), 181: ("i", round(east * scale)), 185: ("i", round(north * scale))}
    words |= {157: ("h", 2026), 233: ("I", (k * 2654435761) % 2**32), 237: ("I", 0xCAFED00D)}  # two unassigned
    if not recipe.line:
        words |= {189: ("i", recipe.first_inline + i), 193: ("i", recipe.first_crossline + recipe.step * x)}
    for byte, (kind, value) in words.items():
        struct.pack_into(order + kind, header, byte - 1, value)
    return bytes(header)


def coordinates(i: float, x: float) -> tuple[float, float]:
    """East and north of a place of the model, in m."""
    along, across = x * BIN[1], i * BIN[0]
    east = ORIGIN[0] + along * np.cos(AZIMUTH) - across * np.sin(AZIMUTH)
    return float(east), float(ORIGIN[1] + along * np.sin(AZIMUTH) + across * np.cos(AZIMUTH))


def main() -> None:
    parser = argparse.ArgumentParser(description="A synthetic survey and the mask of its salt as SEG-Y.")
    parser.add_argument("output", type=Path)
    for name, default in {
        "inlines": 40,
        "crosslines": 60,
        "samples": 200,
        "thickness": 0,
        "mute": 0,
        "water": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--decay", type=float, default=1)
    parser.add_argument("--clip", type=float, default=0)
    for field in fields(Recipe):
        if field.name == "line":
            parser.add_argument("--line", action="store_true", help="a 2-D line (of the middle inline)")
        elif field.name == "scale":
            parser.add_argument("--scale", type=float)
        else:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    recipe = Recipe(**{field.name: given[field.name] for field in fields(Recipe)})
    amplitude, salt = model(
        1 if recipe.line else given["inlines"],
        *(given[name] for name in ("crosslines", "samples")),
        seed=recipe.seed,
        thickness=given["thickness"],
    )
    made = recorded(amplitude, **{name: given[name] for name in ("mute", "water", "decay", "clip")})
    places = write(given["output"], made, recipe)
    salt[..., : given["water"]] = 0
    mask = given["output"].with_name(f"{given['output'].stem}_salt.sgy")
    whole = Recipe(**vars(recipe) | {"dead": 0, "format": 8, "scale": 1})
    write(mask, salt, whole, title="SALT MASK, 1 = SALT")
    thick = max(longest(section.T) for section in salt)
    print(f"{given['output']}: {len(places.dead)} traces, {int(places.dead.sum())} dead; "
          f"{mask}: {salt.mean():.1%} salt, up to {thick} samples thick")  # fmt: skip


if __name__ == "__main__":
    main()
