"""Image and mask move together, for every transform of every file in ``conf/augmentation``."""

from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
from omegaconf import OmegaConf
from small import smooth

from saltseg.components import listed
from saltseg.config import CONF
from saltseg.data.images import IGNORE
from saltseg.errors import SaltsegError

FILES = sorted((CONF / "augmentation").glob("*.yaml"))
EACH = [(file, name) for file in FILES for name in OmegaConf.load(file).transforms]
SEEDS = range(6)


def build(file: Path, **only: Any) -> list[Any]:
    return listed({k: v for k, v in OmegaConf.load(file).transforms.items() if not only or k in only["names"]})


def test_there_are_the_three_groups() -> None:
    assert {"none", "article", "seismic"} <= {file.stem for file in FILES}
    assert build(CONF / "augmentation/none.yaml") == []
    assert {type(t).__name__ for t in build(CONF / "augmentation/article.yaml")} == {
        "HorizontalFlip", "VerticalFlip", "RandomRotate90", "OpticalDistortion", "Transpose",
    }  # fmt: skip


@pytest.mark.parametrize(("file", "name"), EACH, ids=[f"{file.stem}-{name}" for file, name in EACH])
def test_image_and_mask_move_together(file: Path, name: str) -> None:
    """A mask drawn from the image's grey is, after the move, what the moved image's grey says."""
    (transform,) = build(file, names=[name])
    transform.p = 1
    changed = []
    for seed in SEEDS:
        image = smooth((101, 101), seed, sigma=10)
        mask = (image > 128).astype(np.uint8)
        compose = albumentations.Compose([transform])
        compose.set_random_seed(seed)
        drawn = compose(image=image, mask=mask)
        assert drawn["image"].shape == drawn["mask"].shape == (101, 101)
        assert drawn["image"].dtype == drawn["mask"].dtype == np.uint8
        changed.append(not np.array_equal(drawn["image"], image))
        if isinstance(transform, albumentations.ImageOnlyTransform):
            assert np.array_equal(drawn["mask"], mask)
        else:
            assert np.mean((drawn["image"] > 128) == drawn["mask"]) > 0.97
    assert sum(changed) > len(SEEDS) / 2


@pytest.mark.parametrize(("file", "name"), EACH, ids=[f"{file.stem}-{name}" for file, name in EACH])
def test_nothing_is_invented_at_the_borders(file: Path, name: str) -> None:
    """A constant image stays constant, and all salt stays all salt: no black frame, line or corner."""
    (transform,) = build(file, names=[name])
    transform.p = 1
    compose = albumentations.Compose([transform])
    for seed in SEEDS:
        compose.set_random_seed(seed)
        drawn = compose(image=np.full((101, 101), 128, np.uint8), mask=np.ones((101, 101), np.uint8))
        assert np.ptp(drawn["image"]) == 0
        assert drawn["mask"].all()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_masks_keep_their_values(file: Path) -> None:
    compose = albumentations.Compose(build(file))
    for seed in range(20):
        mask = np.digitize(smooth((101, 101), seed), (120, 180)).astype(np.uint8)
        mask[mask == 2] = IGNORE
        compose.set_random_seed(seed)
        drawn = compose(image=smooth((101, 101), seed), mask=mask)
        assert set(np.unique(drawn["mask"])) <= {0, 1, IGNORE}


def test_a_section_keeps_its_up() -> None:
    """What the seismic group does to an image whose grey grows with depth."""
    compose = albumentations.Compose(build(CONF / "augmentation/seismic.yaml"))
    section = np.repeat(np.arange(40, 141, dtype=np.uint8)[:, None], 101, axis=1)
    for seed in range(20):
        compose.set_random_seed(seed)
        middle = compose(image=section, mask=section)["image"][20:-20].astype(int)
        assert (np.diff(middle, axis=0) >= 0).all()


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(SaltsegError, match="'scale'"):
        listed({"affine": {"_target_": "albumentations.Affine", "scales": [0.9, 1.1]}})
