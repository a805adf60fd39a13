"""A finished run as a comparison reads it: its tables, checked against each other, and no weights."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import OmegaConf

from saltseg.errors import SaltsegError
from saltseg.metrics import CURVE, Counts
from saltseg.run import Run

#: Columns of ``predictions.csv`` that are shares.
SHARES = ("iou", "dice", "ap", "salt", "predicted")
COLUMNS = ("id", "split", "fold", "group", *SHARES, "depth", "suspect")
ARRAYS = ("id", "intersection", "predicted", "truth", "pixels", "height", "width", "probability")
#: Of scores at a run's best threshold, ``best/iou`` and so on.
BEST = "best/"


@dataclass(frozen=True)
class Scored:
    """What a run left behind.

    Attributes:
        run: its directory.
        settings: its configuration, flat: ``model.encoder`` and so on, lists as text.
        metrics: its ``metrics.json``.
        table: its ``predictions.csv`` by ``id``; with ``best/iou`` … at its own best threshold where it has arrays.
        arrays: its ``scores.npz``, if there is one.
    """

    run: Run
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    table: pd.DataFrame
    arrays: Mapping[str, NDArray[Any]] | None

    @classmethod
    def read(cls, run: Run) -> "Scored":
        """A finished run.

        Raises:
            SaltsegError: if a file of it is missing, damaged, or says something else than the others.
        """
        metrics = run.metrics()
        for key in ("threshold", "threshold_best"):
            if not isinstance(metrics.get(key), int | float):
                raise _edited(run.metrics_file, f"says {key}={metrics.get(key)!r}, expected a number")
        table = _table(run, metrics)
        arrays = _arrays(run, table, metrics["threshold"])
        if arrays is not None:
            if metrics["threshold_best"] not in CURVE:
                raise _edited(run.metrics_file, f"says threshold_best={metrics['threshold_best']}, which no curve has")
            table = table.join(_at_best(arrays, metrics["threshold_best"]))
        return cls(run, flat(OmegaConf.to_container(run.config())), metrics, table, arrays)

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed") or 0)

    @property
    def fold(self) -> int | None:
        """Which part of a cross-validation it was validated on, or None."""
        fold = self.settings.get("data.fold")
        return None if fold is None else int(fold)

    @property
    def threshold(self) -> float:
        return float(self.metrics["threshold"])

    @property
    def training(self) -> Path:
        """The run whose training gave the weights: itself, or another job of its sweep."""
        return (self.run.path.absolute().parent / str(self.metrics.get("trained_by", self.run.path.name))).resolve()

    def holds_out(self, name: str, splits: Sequence[str]) -> bool:
        """Whether an image is in one of these parts."""
        return name in self.table.index and self.table.loc[name, "split"] in splits

    def counts(self, ids: pd.Index) -> Counts:
        """Pixel counts of these images at the thresholds of the curve."""
        kept = self._kept()
        at = self.table.index.get_indexer(ids)
        return Counts(*(kept[name][at] for name in ("intersection", "predicted", "truth", "pixels")))

    def true_pixels(self, name: str) -> int:
        """How many pixels of salt an image was scored against."""
        return int(self._kept()["truth"][self._at(name)])

    def probability(self, name: str) -> NDArray[np.uint8]:
        """H×W of one image, 255 = 1."""
        return self._pixels("probability", self._at(name))

    def mask(self, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """H×W true salt and H×W labelled pixels of one image, where the run kept them."""
        if self.arrays is None or "salt" not in self.arrays:
            return None
        k = self._at(name)
        return self._pixels("salt", k) == 1, self._pixels("labelled", k) == 1

    def _at(self, name: str) -> int:
        return int(self.table.index.get_loc(name))  # type: ignore[arg-type]

    def _pixels(self, name: str, k: int) -> NDArray[np.uint8]:
        kept = self._kept()
        end = int(kept["end"][k])
        shape = int(kept["height"][k]), int(kept["width"][k])
        return kept[name][end - shape[0] * shape[1] : end].reshape(shape)

    def _kept(self) -> Mapping[str, NDArray[Any]]:
        assert self.arrays is not None, "asked for what scores.npz holds, of a run without it"
        return self.arrays


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys."""
    if isinstance(node, Mapping) and node:
        return {k: v for name, item in node.items() for k, v in flat(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): json.dumps(node) if isinstance(node, list | Mapping) else node}


def _table(run: Run, metrics: Mapping[str, Any]) -> pd.DataFrame:
    file = run.path / "predictions.csv"
    text = {"id": str, "split": str, "group": str}
    try:
        table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values={"depth": [""]})
    except FileNotFoundError as error:
        raise SaltsegError(f"{file} is missing: compare needs it.") from error
    except (ValueError, UnicodeDecodeError) as error:  # pandas' errors of parsing are ValueErrors
        raise _edited(file, f"can't be read: {error}") from error
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise _edited(file, f"has no column {', '.join(missing)}")
    for column in SHARES:
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = ~numbers.between(0, 1)
        if wrong.any():
            first = table[wrong].iloc[0]
            raise _edited(file, f"says {column}={first[column]!r} of {first['id']}, expected a number from 0 to 1")
        table[column] = numbers
    _check_images(run, table, file)
    for part, rows in table.groupby("split"):
        said, found = metrics.get(f"{part}/iou"), rows["iou"].mean()
        if not isinstance(said, int | float) or abs(said - found) > 1e-6:
            raise _edited(file, f"has a mean iou of {found:.6f} on {part}, metrics.json says {said}")
    table["suspect"] = table["suspect"].astype(str).str.lower().eq("true")
    return table.set_index("id")


def _check_images(run: Run, table: pd.DataFrame, file: Path) -> None:
    """The held-out images are those of ``split.csv``, once each."""
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise _edited(file, f"has {repeated.iloc[0]} twice")
    if not (run.path / "split.csv").is_file():
        raise SaltsegError(f"{run.path / 'split.csv'} is missing: compare needs it.")
    split = run.split()
    expected = set(zip(*(split.loc[split["split"].isin(table["split"]), c] for c in ("id", "split")), strict=True))
    found = set(zip(table["id"], table["split"], strict=True))
    if expected != found:
        first = min(expected ^ found)
        raise _edited(
            file,
            f"has other images than split.csv: {len(expected - found)} are missing, {len(found - expected)} are not of "
            f"it; the first is {first[0]} of {first[1]}",
        )


def _arrays(run: Run, table: pd.DataFrame, threshold: float) -> dict[str, NDArray[Any]] | None:
    """What ``scores.npz`` holds, pixels unpacked, with the ``end`` of each image among them."""
    file = run.path / "scores.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _edited(file, f"can't be read: {type(error).__name__}") from error
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise _edited(file, f"has no {', '.join(missing)}")
    arrays["end"] = np.cumsum(arrays["height"] * arrays["width"])
    for name in {"salt", "labelled"} & arrays.keys():
        arrays[name] = np.unpackbits(arrays[name], count=int(arrays["end"][-1]))
    if arrays["id"].tolist() != table.index.tolist() or len(arrays["probability"]) != arrays["end"][-1]:
        raise _edited(file, "has other images than predictions.csv")
    if threshold in CURVE:
        iou = Counts(*(arrays[n] for n in ("intersection", "predicted", "truth", "pixels"))).iou
        differ = np.abs(iou[:, CURVE.index(threshold)] - table["iou"]) > 1e-6
        if differ.any():
            raise _edited(file, f"says another iou of {table.index[differ.to_numpy()][0]} than predictions.csv")
    return arrays


def _at_best(arrays: Mapping[str, NDArray[Any]], threshold: float) -> pd.DataFrame:
    counted = Counts(*(arrays[n] for n in ("intersection", "predicted", "truth", "pixels"))).at(CURVE.index(threshold))
    scores = {
        "iou": counted.iou[:, 0],
        "dice": counted.dice[:, 0],
        "ap": counted.ap[:, 0],
        "predicted": counted.predicted[:, 0] / np.maximum(counted.pixels, 1),
    }
    return pd.DataFrame({f"{BEST}{k}": v for k, v in scores.items()}, index=pd.Index(arrays["id"], name="id"))


def _edited(file: Path, what: str) -> SaltsegError:
    return SaltsegError(
        f"{file} {what}. A comparison needs the files as the run wrote them: restore it, or leave this run out."
    )
