"""The LightningDataModule: owns the images in memory, their split, and the batches made of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import cv2
import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from saltseg.data import mosaic
from saltseg.data.images import Array8, Images
from saltseg.data.prepare import Fit, Normalization, fit_array, fitted_shape
from saltseg.data.split import Split, SplitConfig, split
from saltseg.errors import SaltsegError, check_choice

cv2.setNumThreads(0)  # The cores belong to the network.

Sample = tuple[int, Array8, Array8]
Batch = dict[str, Any]


class Drawn(Dataset[Sample]):
    """Training images, each augmented by a draw from (seed, epoch, index) alone.

    So a draw does not depend on the number of workers, on the batch it lands in, or on what ran before a resume.

    Args:
        images: N images H×W uint8.
        masks: N masks H×W uint8.
        transform: an albumentations ``Compose``, or None.
        seed: of the draws.
    """

    def __init__(self, images: Sequence[Array8], masks: Sequence[Array8], transform: Any, seed: int) -> None:
        self.images, self.masks, self.transform, self.seed = images, masks, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """(index, epoch) to (index, image, mask)."""
        index, epoch = key
        image, mask = self.pick(index, epoch)
        if self.transform is not None:
            self.transform.set_random_seed(int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]))
            drawn = self.transform(image=image, mask=mask)
            image, mask = drawn["image"], drawn["mask"]
        return index, image, mask

    def pick(self, index: int, epoch: int) -> tuple[Array8, Array8]:
        """Image and mask before they are augmented."""
        return self.images[index], self.masks[index]


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch) in an order drawn from (seed, epoch); the Trainer calls :meth:`set_epoch`."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        return ((int(k), self.epoch) for k in order)


def collate(samples: Sequence[Sample], fit: Fit) -> Batch:
    """Samples to a batch, fitted to the largest of them.

    Returns:
        ``image`` and ``mask``: B×1×H×W uint8; ``index``: B int64; ``truth``: the B masks as they came, h×w uint8.
    """
    shape = fitted_shape(*(image.shape for _, image, _ in samples))
    return {
        "image": torch.from_numpy(np.stack([fit_array(i, shape, fit) for _, i, _ in samples])[:, None]),
        "mask": torch.from_numpy(np.stack([fit_array(m, shape, fit, is_mask=True) for _, _, m in samples])[:, None]),
        "index": torch.tensor([k for k, _, _ in samples]),
        "truth": [torch.from_numpy(m) for _, _, m in samples],
    }


def batches_by_shape(shapes: Sequence[tuple[int, ...]], batch_size: int) -> list[list[int]]:
    """Positions in batches whose images have the same fitted shape, so that no score depends on its batch."""
    members: dict[tuple[int, int], list[int]] = {}
    for position, shape in enumerate(shapes):
        members.setdefault(fitted_shape(shape), []).append(position)
    return [group[k : k + batch_size] for group in members.values() for k in range(0, len(group), batch_size)]


class SaltDataModule(LightningDataModule, ABC):
    """Images and masks in memory as uint8, divided, augmented and batched. A dataset is a subclass with :meth:`read`.

    Args:
        split: see :class:`~saltseg.data.split.SplitConfig`.
        folds: for cross-validation: how many parts train and val are dealt into.
        fold: which of them validates, the test part being the same for all; None: no cross-validation.
        augmentation: an albumentations ``Compose`` for the training images, or None.
        batch_size: images of a training step, and of a validation step.
        num_workers: processes that augment; ``auto``: none on a CPU, whose cores the network needs, 4 for a GPU.
        fit: how an image gets to a multiple of 32: mirrored beyond its edges (``pad``) or stretched (``resize``).
        normalize: see :class:`~saltseg.data.prepare.Normalize`.
        ignore_suspect: train without the images whose labels are probably wrong.
        seed: of the order and the augmentation.

    Raises:
        SaltsegError: if one of these is none of the choices.
    """

    def __init__(
        self,
        *,
        split: Mapping[str, Any] | None = None,
        folds: int = 10,
        fold: int | None = None,
        augmentation: Any = None,
        batch_size: int = 32,
        num_workers: int | Literal["auto"] = "auto",
        fit: Fit = "pad",
        normalize: Normalization = "imagenet",
        ignore_suspect: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("data.fit", fit, get_args(Fit))
        check_choice("data.normalize", normalize, get_args(Normalization))
        if num_workers != "auto" and not (isinstance(num_workers, int) and num_workers >= 0):
            raise SaltsegError(f"data.num_workers={num_workers}: expected a number or auto.")
        if not (isinstance(batch_size, int) and batch_size >= 1):
            raise SaltsegError(f"data.batch_size={batch_size}: expected a number of images.")
        self.split_config = SplitConfig(**dict(split or {}), folds=folds, fold=fold)
        self.augmentation, self.batch_size, self.fit, self.normalize = augmentation, batch_size, fit, normalize
        self.ignore_suspect, self.seed = ignore_suspect, seed
        self.num_workers = num_workers
        self._images: Images | None = None
        self._split: Split | None = None

    @abstractmethod
    def read(self) -> Images:
        """All labelled images.

        Raises:
            SaltsegError: if something is missing or damaged.
        """

    @property
    def images(self) -> Images:
        """All labelled images, read once; grouped by their mosaics, if that is how they are divided."""
        if self._images is None:
            images = self.read()
            grouped = self.split_config.group == "mosaic"
            self._images = replace(images, group=mosaic.groups(images.images)) if grouped else images
        return self._images

    @property
    def division(self) -> Split:
        """Which image is in which part."""
        if self._split is None:
            self._split = split(self.images, self.split_config)
        return self._split

    def divide_as(self, table: pd.DataFrame) -> None:
        """Take the division from a run's ``split.csv`` (``id,split`` and, if any, ``fold``) instead of drawing it.

        Raises:
            SaltsegError: if its images are not those of this dataset.
        """
        ids = list(self.images.ids)
        if set(table["id"]) != set(ids):
            raise SaltsegError(
                f"The run's split.csv names {len(table)} images, the data has {len(ids)}, and they are not the same. "
                "Is data.root the data that the run was trained on?"
            )
        listed = table.set_index("id").loc[ids]
        fold = listed["fold"] if "fold" in listed else pd.Series(-1, index=listed.index)
        self._split = Split(np.asarray(listed["split"], "<U5"), np.asarray(fold, np.int64))

    def part(self, name: str) -> Images:
        """The images of ``train`` (less the suspect ones, if so configured), ``val`` or ``test``."""
        positions = self.division.indices(name)
        if name == "train" and self.ignore_suspect:
            positions = positions[~self.images.suspect[positions]]
        return self.select(positions)

    def seen(self) -> Sequence[Array8]:
        """Training images as the network is shown them, but for their augmentation."""
        return self.part("train").images

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that hold every training image: what a network of this data knows."""
        shapes = [image.shape for image in self.seen()]
        return max(h for h, _ in shapes), max(w for _, w in shapes)

    def select(self, positions: Any) -> Images:
        """The images at ``positions``, in that order."""
        whole = self.images
        pick = [int(p) for p in positions]
        return replace(
            whole,
            ids=[whole.ids[p] for p in pick],
            images=[whole.images[p] for p in pick],
            masks=[whole.masks[p] for p in pick],
            depth=whole.depth[pick],
            group=[whole.group[p] for p in pick],
            suspect=whole.suspect[pick],
            part=None if whole.part is None else [whole.part[p] for p in pick],
        )

    def drawn(self, images: Images) -> Drawn:
        """What an epoch shows of the training images."""
        return Drawn(images.images, images.masks, self.augmentation, self.seed)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled and augmented."""
        drawn = self.drawn(self.part("train"))
        workers = self._workers()
        return DataLoader(
            drawn,
            batch_size=self.batch_size,
            sampler=EpochSampler(len(drawn), self.seed),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=partial(collate, fit=self.fit),
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """In order, as they are."""
        return self._plain(self.part("val"))

    def test_dataloader(self) -> DataLoader[Sample]:
        """In order, as they are."""
        return self._plain(self.part("test"))

    def _plain(self, images: Images, batch_size: int | None = None) -> DataLoader[Sample]:
        batches = batches_by_shape([i.shape for i in images.images], batch_size or self.batch_size)
        return DataLoader(
            Drawn(images.images, images.masks, None, self.seed),
            batch_sampler=[[(k, 0) for k in batch] for batch in batches],
            collate_fn=partial(collate, fit=self.fit),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Only what the network sees; the truth is compared on the host."""
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _workers(self) -> int:
        if self.num_workers == "auto":
            return 4 if torch.cuda.is_available() else 0
        return self.num_workers
