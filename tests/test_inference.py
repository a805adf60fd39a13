"""Probabilities don't depend on how they are computed: batches, order, mirror images, members of an ensemble."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small import SmallNet, make_images, small_net
from torch import nn

from saltseg.data.prepare import Fit
from saltseg.errors import SaltsegError
from saltseg.inference import Predictor, load_net, restore
from saltseg.module import SaltNet
from saltseg.run import Run

SAME = [(101, 101)] * 11
MIXED = [(101, 101), (60, 40), (128, 96), (33, 200), (1, 1), (64, 64)] * 2
Maps = Sequence[NDArray[np.float32]]


def apart(first: Maps, second: Maps) -> float:
    """The largest difference between two lists of maps."""
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("shapes", [SAME, MIXED])
def test_probabilities_come_in_order_and_in_the_images_sizes(shapes: list[tuple[int, int]], fit: Fit) -> None:
    images = make_images(shapes).images
    predictor = Predictor([SaltNet(small_net())], fit=fit, batch_size=4)
    maps = predictor(images)
    assert [m.shape for m in maps] == shapes
    assert all(m.dtype == np.float32 and m.min() >= 0 and m.max() <= 1 for m in maps)
    alone = [predictor([image])[0] for image in images]
    assert apart(maps, alone) < 1e-6
    backwards = predictor(images[::-1])[::-1]
    assert apart(maps, backwards) < 1e-6
    assert predictor([]) == []


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("normalize", ["imagenet", "tile"])
def test_probabilities_do_not_depend_on_the_batch_size(size: int, normalize: Any) -> None:
    images = make_images(SAME).images
    net = SaltNet(nn.Sequential(nn.BatchNorm2d(3), small_net()), normalize)
    whole, other = (Predictor([net], batch_size=b)(images) for b in (len(images), size))
    assert np.ptp(whole[0]) > 0.1
    assert apart(whole, other) < 1e-6


def test_the_memory_format_does_not_matter() -> None:
    images = make_images(SAME).images
    plain, last = (Predictor([SaltNet(small_net())], memory_format=m) for m in ("contiguous", "channels_last"))
    assert apart(plain(images), last(images)) < 1e-6


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("width", [96, 100, 101])
def test_with_hflip_a_mirrored_image_gives_the_mirrored_probabilities(width: int, fit: Fit) -> None:
    images = make_images([(101, width)] * 3).images
    mirrored = [np.ascontiguousarray(i[:, ::-1]) for i in images]
    none, hflip = (Predictor([SaltNet(small_net())], fit=fit, tta=tta) for tta in ("none", "hflip"))
    back = [m[:, ::-1] for m in hflip(mirrored)]
    assert apart(hflip(images), back) < 1e-5
    assert apart(none(images), [m[:, ::-1] for m in none(mirrored)]) > 1e-2  # the net is not symmetric by itself
    both = [(a + b[:, ::-1]) / 2 for a, b in zip(none(images), none(mirrored), strict=True)]
    assert apart(hflip(images), both) < 1e-5


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    images = make_images(MIXED).images
    nets = [SaltNet(small_net(seed), normalize) for seed, normalize in enumerate(("imagenet", "tile", "imagenet"))]
    single = [Predictor([net])(images) for net in nets]
    mean = [np.mean(each, axis=0) for each in zip(*single, strict=True)]
    assert apart(single[0], single[1]) > 1e-2
    assert apart(Predictor(nets)(images), mean) < 1e-6


LARGE = [(300, 420), (101, 260), (64, 64)]


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.8])
def test_an_image_of_the_training_size_is_the_same_through_tiles(overlap: float) -> None:
    images = make_images(SAME[:3]).images
    net = SaltNet(small_net())
    plain, tiled = Predictor([net]), Predictor([net], image_size=(101, 101), overlap=overlap)
    assert apart(plain(images), tiled(images)) == 0
    assert apart(plain(images), [tiled._tiled(image)[0].numpy() for image in images]) < 1e-6


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_the_batches_and_the_order_of_tiles_do_not_matter(fit: Fit) -> None:
    images = make_images(LARGE).images
    one, many = (
        Predictor([SaltNet(small_net())], fit=fit, image_size=(101, 101), batch_size=b, tta="hflip") for b in (1, 7)
    )
    maps = one(images)
    assert [m.shape for m in maps] == LARGE
    assert apart(maps, many(images)) < 1e-6
    assert apart(maps, many(images[::-1])[::-1]) < 1e-6


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_blending_neither_adds_nor_takes_away(overlap: float) -> None:
    images = make_images(LARGE).images
    net = SaltNet(nn.Conv2d(3, 1, 1))  # it sees one pixel at a time, so any tiles must give the same
    assert apart(Predictor([net])(images), Predictor([net], image_size=(101, 101), overlap=overlap)(images)) < 1e-5


def test_where_tiles_meet_the_map_is_as_smooth_as_elsewhere() -> None:
    """A net whose answer depends on the tile as a whole: without blending every border would be a step."""

    class OfTheTile(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x.mean((1, 2, 3), keepdim=True).expand(-1, 1, *x.shape[2:]).contiguous()

    (image,) = make_images([(400, 400)]).images
    net = SaltNet(OfTheTile(3, 1, 1))
    smooth, hard = (Predictor([net], image_size=(128, 128), overlap=o)([image])[0] for o in (0.5, 0.0))
    jumps = np.abs(np.diff(smooth, axis=0)).max()
    assert np.ptp(smooth) > 0.01
    assert jumps < 0.05 * np.ptp(smooth)
    assert np.abs(np.diff(hard, axis=0)).max() > 5 * jumps


def test_the_mean_of_logits_is_another_mean() -> None:
    images = make_images(SAME[:2]).images
    nets = [SaltNet(small_net(seed)) for seed in range(2)]
    first, second = (Predictor([net])(images)[0] for net in nets)
    logits = (np.log(first / (1 - first)) + np.log(second / (1 - second))) / 2
    assert apart([Predictor(nets, mean="logit")(images)[0]], [1 / (1 + np.exp(-logits))]) < 1e-5


def test_from_three_networks_on_their_entropy_comes_along() -> None:
    images = make_images([(101, 101), (200, 150)]).images
    nets = [SaltNet(small_net(seed)) for seed in range(3)]
    assert all(p.member_entropy is None for p in Predictor(nets[:2], image_size=(101, 101)).predict(images))
    single = [Predictor([net], image_size=(101, 101))(images)[0] for net in nets]
    own = np.mean([-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in single], axis=0)
    small, large = Predictor(nets, image_size=(101, 101)).predict(images)
    assert small.member_entropy is not None
    assert large.member_entropy is not None
    assert apart([small.member_entropy], [own]) < 1e-5
    assert large.member_entropy.shape == (200, 150)


def test_no_trace_of_training_is_left() -> None:
    """Dropout and batch statistics are off, and no gradients are kept."""
    net = SaltNet(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), small_net()))
    predictor = Predictor([net.train()])
    images = make_images(SAME[:2]).images
    before = net.state_dict()["net.1.running_mean"].clone()
    assert apart(predictor(images), predictor(images)) == 0
    assert torch.equal(net.state_dict()["net.1.running_mean"], before)


def saved(net: nn.Module, file: Path) -> Path:
    torch.save({"state_dict": {f"net.{k}": v for k, v in net.state_dict().items()}, "epoch": 3}, file)
    return file


def test_a_checkpoint_gives_the_net_back(tmp_path: Path) -> None:
    trained, fresh = SaltNet(small_net(1)), SaltNet(small_net(2))
    restore(fresh, saved(trained, tmp_path / "best.ckpt"))
    images = make_images(SAME[:2]).images
    assert apart(Predictor([trained])(images), Predictor([fresh])(images)) == 0


@pytest.mark.parametrize(
    "other", [lambda: small_net(width=5), lambda: nn.Conv2d(3, 1, 1), lambda: nn.Sequential(small_net())]
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, other: Callable[[], nn.Module]) -> None:
    net = SaltNet(small_net())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(SaltsegError, match=r"best\.ckpt is a checkpoint of another model"):
        restore(net, saved(SaltNet(other()), tmp_path / "best.ckpt"))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def truncated(file: Path) -> None:
    saved(SaltNet(small_net()), file)
    file.write_bytes(file.read_bytes()[:-200])


DAMAGED: dict[str, Callable[[Path], object]] = {
    "empty": lambda f: f.write_bytes(b""),
    "text": lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
    "noise": lambda f: f.write_bytes(np.random.default_rng(0).bytes(5000)),
    "nulls": lambda f: f.write_bytes(bytes(5000)),
    "truncated": truncated,
    "a list": lambda f: torch.save([1, 2], f),
    "a tensor": lambda f: torch.save(torch.zeros(3), f),
    "no state": lambda f: torch.save({"weights": {}}, f),
    "a state of numbers": lambda f: torch.save({"state_dict": dict.fromkeys(map("net.{}".format, KEYS), 1)}, f),
    "a state that is none": lambda f: torch.save({"state_dict": None}, f),
    "a pickled module": lambda f: torch.save({"state_dict": SmallNet()}, f),
    "a folder": lambda f: f.mkdir(),
}
KEYS = list(SaltNet(small_net()).state_dict())


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, what: str) -> None:
    file = tmp_path / "best.ckpt"
    DAMAGED[what](file)
    with pytest.raises(SaltsegError, match=r"best\.ckpt can't be read as a checkpoint"):
        restore(SaltNet(small_net()), file)


@pytest.mark.parametrize("start", range(16))
def test_damage_anywhere_is_an_error_for_people(tmp_path: Path, start: int) -> None:
    """Noise of every first byte: what unpickling raises depends on it."""
    file = tmp_path / "best.ckpt"
    file.write_bytes(bytes([start * 16 + 3]) + np.random.default_rng(start).bytes(300))
    with pytest.raises(SaltsegError):
        restore(SaltNet(small_net()), file)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    run = Run.begin(tmp_path)
    run.write_config(
        {
            "model": {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 1},
            "data": {"normalize": "imagenet"},
        }
    )
    with pytest.raises(SaltsegError, match=r"last\.ckpt is missing.*weights=last"):
        load_net(run, "last")
    trained = SaltNet(nn.Conv2d(3, 1, 1))
    saved(trained, run.last_checkpoint)
    assert torch.equal(load_net(run, "last").net.weight, trained.net.weight)
