"""What a network is shown depends on seed, epoch and index alone; what is scored is in order and as it was."""

from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from small import Small, make_images
from torch.utils.data import DataLoader

from saltseg.data.datamodule import batches_by_shape
from saltseg.data.images import Images
from saltseg.data.prepare import fitted_shape, unfit
from saltseg.errors import SaltsegError

SAME = [(101, 101)] * 20
MIXED = [(101, 101), (60, 40), (128, 96), (33, 200)] * 5


def augmentation() -> albumentations.Compose:
    return albumentations.Compose(
        [
            albumentations.HorizontalFlip(),
            albumentations.Affine(translate_percent=(-0.08, 0.08), scale=(0.88, 1.12), p=1),
            albumentations.RandomBrightnessContrast(p=1),
        ]
    )


def training(images: Images, epoch: int = 0, **options: Any) -> DataLoader[Any]:
    loader = Small(images, augmentation=augmentation(), batch_size=4, **options).train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # as the Trainer does
    return loader


def shown(loader: DataLoader[Any]) -> dict[int, tuple[bytes, bytes]]:
    """What each image of a pass through the loader looked like, in the order of the pass."""
    passed: dict[int, tuple[bytes, bytes]] = {}
    for batch in loader:
        for index, image, mask in zip(batch["index"], batch["image"], batch["mask"], strict=True):
            assert int(index) not in passed
            passed[int(index)] = (image.numpy().tobytes(), mask.numpy().tobytes())
    return passed


def test_draws_come_from_seed_epoch_and_index_alone() -> None:
    images = make_images(SAME)
    first = shown(training(images))
    assert sorted(first) == list(range(13))  # every image once
    assert len({picture for picture, _ in first.values()}) == 13
    loader = training(images)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    second = shown(loader)
    loader.sampler.set_epoch(0)  # type: ignore[attr-defined]
    again = shown(loader)
    assert list(again.items()) == list(first.items())
    assert list(second) != list(first)
    assert all(second[index] != first[index] for index in first)
    assert list(shown(training(images, epoch=1)).items()) == list(second.items())  # as after a resume
    other_seed = shown(training(images, seed=1))
    assert list(other_seed) != list(first)
    assert all(other_seed[index] != first[index] for index in first)


def test_draws_do_not_depend_on_workers_or_batches() -> None:
    images = make_images(SAME)
    alone = [shown(training(images, epoch)) for epoch in (0, 1)]
    loader = training(images, num_workers=2)
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert list(shown(loader).items()) == list(alone[epoch].items())
    larger = Small(images, augmentation=augmentation(), batch_size=13).train_dataloader()
    assert list(shown(larger).items()) == list(alone[0].items())


@pytest.mark.parametrize("shapes", [SAME, MIXED])
@pytest.mark.parametrize("part", ["val", "test"])
def test_held_out_images_come_in_order_and_as_they_are(shapes: list[tuple[int, int]], part: str) -> None:
    data = Small(make_images(shapes, ignore=True), augmentation=augmentation(), batch_size=2)
    held_out = data.part(part)
    seen: list[int] = []
    for batch in data.val_dataloader() if part == "val" else data.test_dataloader():
        seen += batch["index"].tolist()
        assert batch["image"].shape == batch["mask"].shape
        assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
        for index, image, mask, truth in zip(*(batch[k] for k in ("index", "image", "mask", "truth")), strict=True):
            native = held_out.images[index].shape
            assert np.array_equal(unfit(image[None], native, "pad")[0, 0], held_out.images[index])
            assert np.array_equal(unfit(mask[None], native, "pad")[0, 0], held_out.masks[index])
            assert np.array_equal(truth, held_out.masks[index])
    assert sorted(seen) == list(range(len(held_out)))
    if shapes is SAME:
        assert seen == sorted(seen)


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_sizes_may_differ_within_a_training_batch(fit: Any) -> None:
    data = Small(make_images(MIXED), augmentation=augmentation(), batch_size=8, fit=fit)
    train = data.part("train")
    for batch in data.train_dataloader():
        natives = [train.images[k].shape for k in batch["index"]]
        assert tuple(batch["image"].shape[-2:]) == tuple(batch["mask"].shape[-2:]) == fitted_shape(*natives)
        assert [tuple(t.shape) for t in batch["truth"]] == natives
        assert set(batch["mask"].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_by_shape(size: int) -> None:
    batches = batches_by_shape(MIXED, size)
    assert sorted(p for batch in batches for p in batch) == list(range(len(MIXED)))
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len({fitted_shape(MIXED[p]) for p in batch}) == 1
        assert batch == sorted(batch)
    assert batches_by_shape(SAME, 8) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert batches_by_shape([], size) == []


def test_suspects_are_left_out_of_training_alone() -> None:
    images = make_images(SAME, suspect=range(0, 20, 2))
    everything, trusted = Small(images), Small(images, ignore_suspect=True)
    assert (everything.division.part == trusted.division.part).all()
    for part in ("val", "test"):
        assert everything.part(part).ids == trusted.part(part).ids
    suspects = set(np.array(images.ids)[images.suspect])
    assert set(trusted.part("train").ids) == set(everything.part("train").ids) - suspects
    assert suspects & set(everything.part("train").ids)
    assert len(trusted.train_dataloader().sampler) == len(trusted.part("train"))  # type: ignore[arg-type]


def test_a_selection_keeps_what_is_known_of_each() -> None:
    images = make_images(SAME, suspect=[3])
    chosen = Small(images).select([7, 3])
    assert (list(chosen.ids), chosen.depth.tolist()) == (["tile007", "tile003"], [107, 103])
    assert (list(chosen.group), chosen.suspect.tolist()) == (["section1", "section0"], [False, True])
    assert chosen.images[1] is images.images[3]
    assert chosen.masks[0] is images.masks[7]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"fit": "padd"}, "data.fit=padd.*'pad'"),
        ({"normalize": "tiles"}, "data.normalize=tiles.*'tile'"),
        ({"num_workers": "many"}, "data.num_workers=many.*auto"),
    ],
)
def test_a_misspelt_choice_is_refused(option: dict[str, Any], says: str) -> None:
    with pytest.raises(SaltsegError, match=says):
        Small(make_images(SAME), **option)
