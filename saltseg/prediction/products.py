"""The folder that a prediction leaves: a file per image and kind, a table of all, and Kaggle's submission.

Every file appears whole. What is done stands in a journal, so that the same command goes on after a stop; once all is
done, the journal becomes ``predictions.csv``.
"""

import csv
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import OmegaConf

from saltseg.data import rle
from saltseg.data.images import Array8
from saltseg.errors import SaltsegError
from saltseg.files import write_whole, writing

Float = NDArray[np.float32]

#: Where each kind of file goes, and its ending.
PLACES = {
    "mask": ("masks", ".png"),
    "overlay": ("overlays", ".png"),
    "probability": ("probability", ".png"),
    "entropy": ("entropy", ".png"),
    "disagreement": ("disagreement", ".png"),
    "npy": ("npy", ".npy"),
}
KINDS = (*PLACES, "kaggle")
#: Overlays are enlarged until they are this high or wide.
SHOWN = 300
_BLUE = np.array([0xE9, 0xB4, 0x56], np.float32)  # BGR, as in every picture of a prediction


class Products:
    """What is written for the images of one input.

    Args:
        folder: where to.
        kinds: of :data:`KINDS`.
        settings: all that the products depend on; a folder that was begun with others is not gone on with.
        overwrite: begin anew what is there.

    Raises:
        SaltsegError: if the folder holds something else, or a prediction that is whole or of other settings.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], settings: Mapping[str, Any], overwrite: bool) -> None:
        self.folder, self.kinds = folder, kinds
        self.table, self.submission = folder / "predictions.csv", folder / "submission.csv"
        self._journal, self._settings = folder / "predictions.partial.csv", folder / "predict.yaml"
        self._begin(OmegaConf.to_yaml(OmegaConf.create(dict(settings))), overwrite)
        self.rows: dict[str, dict[str, str]] = self._read_journal()
        self._new: list[dict[str, Any]] = []

    def _begin(self, settings: str, overwrite: bool) -> None:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if not self._settings.exists():
            if not overwrite and any(not p.name.startswith(".") and p.suffix != ".log" for p in self.folder.iterdir()):
                raise SaltsegError(f"output: {self.folder} holds something else. Name a new folder, or overwrite=true.")
        elif overwrite:
            self._remove()
        elif self.table.exists():
            raise SaltsegError(
                f"output: {self.folder} holds a prediction already, and it is kept. Name another folder, or replace it "
                "by overwrite=true."
            )
        elif self._settings.read_text(encoding="utf-8") != settings:
            raise SaltsegError(
                f"output: {self.folder} was begun with other settings, see {self._settings.name} in it. Name another "
                "folder, or begin anew by overwrite=true."
            )
        write_whole(self._settings, settings)

    def _remove(self) -> None:
        """Take away what an earlier prediction wrote, and nothing else."""
        names = list(self._read_journal())
        if self.table.exists():
            names += pd.read_csv(self.table, dtype={"id": str}, keep_default_na=False)["id"].tolist()
        for name in names:
            for kind in PLACES:
                self.file(kind, name).unlink(missing_ok=True)
        for file in (self.table, self.submission, self._journal, self._settings):
            file.unlink(missing_ok=True)

    def _read_journal(self) -> dict[str, dict[str, str]]:
        """What was done before; a last line that was being written is dropped."""
        if not self._journal.exists():
            return {}
        text, newline, _ = self._journal.read_text(encoding="utf-8").rpartition("\n")
        write_whole(self._journal, text + newline)
        return {row["id"]: row for row in csv.DictReader(StringIO(text))}

    def file(self, kind: str, name: str) -> Path:
        """Where the file of an image goes."""
        folder, ending = PLACES[kind]
        return self.folder / folder / f"{name}{ending}"

    def keep(self, row: dict[str, Any], image: Array8, maps: Mapping[str, Float], salt: NDArray[np.bool_]) -> None:
        """Write the files of an image.

        Args:
            row: what the table says of it, which begins with its ``id``.
            image: h×w.
            maps: by name, h×w in [0, 1]: ``probability``, ``entropy``, ``disagreement``.
            salt: h×w, where it is predicted.

        Raises:
            SaltsegError: if the disk is full.
        """
        for kind in self.kinds:
            if kind in PLACES:
                file = self.file(kind, row["id"])
                with writing(file):
                    file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, _content(kind, image, maps, salt))
        if "kaggle" in self.kinds:
            row = {**row, "rle_mask": rle.encode(salt)}
        self.rows[row["id"]] = {k: str(v) for k, v in row.items()}
        self._new.append(row)

    def note(self) -> None:
        """Enter what was kept since the last time into the journal.

        Raises:
            SaltsegError: if the disk is full.
        """
        if not self._new:
            return
        lines = StringIO()
        if not self._journal.exists():
            csv.writer(lines, lineterminator="\n").writerow(self._new[0])
        csv.writer(lines, lineterminator="\n").writerows(row.values() for row in self._new)
        with writing(self._journal), self._journal.open("a", encoding="utf-8") as journal:
            journal.write(lines.getvalue())
        self._new.clear()

    def finish(self, names: Sequence[str], sample: Path | None) -> None:
        """Write the table, in the order of ``names``, and the submission, in that of ``sample``.

        Raises:
            SaltsegError: if the submission would not be one that Kaggle takes.
        """
        table = pd.DataFrame([self.rows[name] for name in names])
        if sample is not None:
            write_whole(self.submission, submission(table, sample).to_csv(index=False, lineterminator="\n"))
        write_whole(self.table, table.drop(columns="rle_mask", errors="ignore").to_csv(index=False))
        self._journal.unlink()


def submission(table: pd.DataFrame, sample: Path) -> pd.DataFrame:
    """Kaggle's ``id,rle_mask`` in the order of its ``sample_submission.csv``, every mask checked.

    Args:
        table: ``id``, ``height``, ``width``, ``salt`` (share of pixels) and ``rle_mask`` of each image.
        sample: that file.

    Raises:
        SaltsegError: if an image is missing or too many, or a code doesn't give the mask's pixels back.
    """
    wanted = pd.read_csv(sample, dtype=str, keep_default_na=False)["id"].tolist()
    given = set(table["id"])
    for odd, what in ((set(wanted) - given, "were not predicted"), (given - set(wanted), "are not asked for")):
        if odd:
            raise SaltsegError(
                f"format=kaggle: {len(odd)} images {what} ({', '.join(sorted(odd)[:3])} …), says {sample}. "
                "Name the competition's test.zip as input=; no submission was written."
            )
    table = table.set_index("id").loc[wanted].reset_index()
    for row in table.to_dict("records"):
        mask = rle.decode(row["rle_mask"], (int(row["height"]), int(row["width"])))
        if not np.isclose(mask.mean(), float(row["salt"]), atol=0.5 / mask.size):
            raise SaltsegError(f"format=kaggle: the code of {row['id']} has {mask.sum()} pixels, its mask has others.")
    return table[["id", "rle_mask"]]


def _content(kind: str, image: Array8, maps: Mapping[str, Float], salt: NDArray[np.bool_]) -> bytes:
    if kind == "npy":
        stream = BytesIO()
        np.save(stream, maps["probability"])
        return stream.getvalue()
    if kind == "mask":
        return _png(np.uint8(255) * salt)
    if kind == "overlay":
        return _png(overlay(image, maps["probability"], salt))
    return _png(np.round(maps[kind] * 65535).astype(np.uint16))  # 65535 is 1


def _png(pixels: NDArray[Any]) -> bytes:
    encoded: NDArray[np.uint8] = cv2.imencode(".png", pixels)[1]
    return encoded.tobytes()


def overlay(image: Array8, probability: Float, salt: NDArray[np.bool_]) -> Array8:
    """The image with the probability of salt over it in blue, and salt outlined: H×W×3 uint8 (BGR).

    A small image is enlarged by a whole number.
    """
    factor = max(1, -(-SHOWN // max(image.shape)))
    grey, alpha, mask = (
        np.kron(a, np.ones((factor, factor), a.dtype)) for a in (image, 0.5 * probability, salt.astype(np.uint8))
    )
    colour = np.repeat(grey[..., None].astype(np.float32), 3, axis=2)
    colour += alpha[..., None] * (_BLUE - colour)
    drawn = np.ascontiguousarray(np.round(colour).astype(np.uint8))
    outlines = cv2.findContours(np.pad(mask, 1), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(-1, -1))[0]
    cv2.drawContours(drawn, outlines, -1, _BLUE.tolist(), 1 + (factor > 1))
    return np.asarray(drawn, np.uint8)
