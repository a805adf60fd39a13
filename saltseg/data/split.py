"""Which image trains, which validates and which tests: deterministic, stratified, nothing identical on two sides."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saltseg.data.images import Images
from saltseg.errors import SaltsegError, check_choice

PARTS = ("train", "val", "test")
UNUSED = ""

Stratify = Literal["coverage", "none"]
Group = Literal["none", "mosaic", "given"]


@dataclass
class SplitConfig:
    """How to divide the data.

    Attributes:
        train, val, test: a number of images, or a share below 1; ``train: null`` takes what is left.
        seed: of the division; not moved by the training's seed, so that runs stay comparable.
        stratify: ``coverage`` gives every part the same distribution of salt shares; ``none`` draws at random.
        group: what stays together: ``mosaic`` tiles that touch, ``given`` the dataset's own groups, or ``none``.
        folds: for cross-validation: how many parts train + val are dealt into.
        fold: which of them validates; ``null``: no cross-validation, the sizes above.
    """

    train: int | float | None = 3420
    val: int | float = 380
    test: int | float = 200
    seed: int = 0
    stratify: Stratify = "coverage"
    group: Group = "none"
    folds: int = 10
    fold: int | None = None

    def __post_init__(self) -> None:
        check_choice("data.split.stratify", self.stratify, get_args(Stratify))
        check_choice("data.split.group", self.group, get_args(Group))


@dataclass(frozen=True)
class Split:
    """N parts (train/val/test, or "" for unused) and N fold numbers (−1: not dealt)."""

    part: NDArray[np.str_]
    fold: NDArray[np.int64]

    def indices(self, part: str) -> NDArray[np.int64]:
        """Positions of the images of ``part``, ascending."""
        return np.flatnonzero(self.part == part)


def identical(images: Sequence[NDArray[np.uint8]]) -> list[str]:
    """N digests; equal for byte-identical images of one shape."""
    return [hashlib.blake2b(repr(i.shape).encode() + i.tobytes(), digest_size=16).hexdigest() for i in images]


def split(images: Images, config: SplitConfig) -> Split:
    """Divide ``images``.

    Images that occur more than once (TGS: 80 black ones) always train, in every fold: held out, they would be scored
    several times over for one decision, and a black image is no decision at all. So they leave their groups, too.

    Raises:
        SaltsegError: if more images are asked for than there are, a part stays empty, or a fold does not exist.
    """
    count = len(images)
    part = np.full(count, UNUSED, dtype="<U5")
    fold = np.full(count, -1, dtype=np.int64)
    if images.part is not None:
        return Split(np.array(images.part, dtype="<U5"), fold)

    digests = identical(images.images)
    copies = Counter(digests)
    repeated = np.array([copies[d] > 1 for d in digests], dtype=bool)
    sizes = _sizes(config, count, int(repeated.sum()))
    rng = np.random.default_rng(config.seed)
    units = _units(images, config, ~repeated)
    order = _stratified_order(units, images.coverage, config.stratify == "coverage", rng)

    test, order = _take(order, sizes["test"])
    part[test] = "test"
    if config.fold is None:
        val, order = _take(order, sizes["val"])
        part[val] = "val"
    else:
        if not 0 <= config.fold < config.folds:
            raise SaltsegError(
                f"data.fold: fold {config.fold} does not exist; expected 0 … {config.folds - 1}, or null."
            )
        fill = np.zeros(config.folds, dtype=np.int64)
        for unit in order:
            k = int(fill.argmin())
            fold[unit] = k
            fill[k] += len(unit)
        part[fold == config.fold] = "val"
        order = [u for u in order if fold[u[0]] != config.fold]
    train = np.concatenate([*order, np.flatnonzero(repeated)]).astype(np.int64)
    if config.fold is None and len(train) > sizes["train"]:
        train = rng.permutation(train)[: sizes["train"]]
    part[train] = "train"
    for name in PARTS:
        if not (part == name).any():
            raise SaltsegError(
                f"data.split leaves no image for {name}: {len(units)} groups are too few or too large. "
                "Ask for other sizes, fewer folds, or group=none."
            )
    return Split(part, fold)


def _sizes(config: SplitConfig, count: int, repeated: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    total = 0.0
    for part, wanted in (("train", config.train), ("val", config.val), ("test", config.test)):
        if wanted is not None:
            before, total = total, total + (wanted * count if wanted < 1 else wanted)
            sizes[part] = round(total) - round(before)  # so that shares which sum to 1 take each image once
    sizes.setdefault("train", count - sum(sizes.values()))
    too_many = sum(sizes.values()) > count or sizes["val"] + sizes["test"] > count - repeated
    if too_many or min(sizes.values()) < 1:
        asked = " + ".join(f"{p} {sizes[p]}" for p in PARTS)
        twice = f", of which {repeated} occur more than once and can only train" if repeated else ""
        raise SaltsegError(
            f"data.split asks for {asked} images, but there are {count}{twice}. Every part needs at least one image; "
            "set data.split.train, .val and .test to what the data holds (train=null takes what is left)."
        )
    return sizes


def _units(images: Images, config: SplitConfig, usable: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """What moves as one: arrays of positions."""
    positions = np.flatnonzero(usable)
    if config.group == "none":
        return [np.array([p]) for p in positions]
    members: dict[str, list[int]] = {}
    for p in positions:
        members.setdefault(images.group[int(p)] or f"alone {p}", []).append(int(p))
    return [np.array(m) for m in members.values()]


def _stratified_order(
    units: list[NDArray[np.int64]],
    coverage: NDArray[np.float64],
    stratify: bool,
    rng: np.random.Generator,
    block: int = 20,
) -> list[NDArray[np.int64]]:
    """A random order of the units, every prefix of which has about the coverage distribution of the whole.

    Units are sorted by coverage and cut into blocks; the order takes a random unit of every block, then another one,
    and goes through the blocks in steps of the golden ratio, so that it has been everywhere after any number of them.
    """
    shuffled = [units[k] for k in rng.permutation(len(units))]
    if not stratify:
        return shuffled
    shuffled.sort(key=lambda unit: float(coverage[unit].mean()))
    turn = np.concatenate([rng.permutation(min(block, len(shuffled) - k)) for k in range(0, len(shuffled), block)])
    place = np.arange(len(shuffled)) // block * ((5**0.5 - 1) / 2) % 1
    return [shuffled[k] for k in np.lexsort((place, turn))]


def _take(order: list[NDArray[np.int64]], size: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The first units that fill ``size`` images without exceeding it, and the units that are left."""
    taken: list[NDArray[np.int64]] = []
    left: list[NDArray[np.int64]] = []
    room = size
    for unit in order:
        if len(unit) <= room:
            taken.append(unit)
            room -= len(unit)
        else:
            left.append(unit)
    return np.concatenate(taken) if taken else np.empty(0, np.int64), left
