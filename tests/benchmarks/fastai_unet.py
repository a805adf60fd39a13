"""The article's ResNet34 as fastai's ``unet_learner`` makes it (its own decoder, pixel shuffle); pip install fastai.

    python fastai_unet.py --data DIR [--steps 20]

DIR holds ``images/`` and ``masks/``. float32, as it comes; prints one JSON line: images per second, the median over
steps after a warm-up.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from fastai.vision.all import (
    BCEWithLogitsLossFlat,
    Callback,
    CancelFitException,
    PILMask,
    Resize,
    SegmentationDataLoaders,
    aug_transforms,
    get_image_files,
    resnet34,
    unet_learner,
)


class Clock(Callback):
    """Seconds of each step, loading included."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ends = steps, []

    def after_batch(self) -> None:
        self.ends.append(time.perf_counter())
        if len(self.ends) == self.steps:
            raise CancelFitException


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    def mask(file: Path) -> PILMask:
        import cv2

        return PILMask.create((cv2.imread(str(args.data / "masks" / file.name), -1) > 0).astype(np.uint8))

    loaders = SegmentationDataLoaders.from_label_func(
        args.data,
        bs=32,
        fnames=get_image_files(args.data / "images"),
        label_func=mask,
        codes=["background", "salt"],
        item_tfms=Resize(128),
        batch_tfms=aug_transforms(flip_vert=True),
        num_workers=1,
    )
    clock = Clock(args.steps)
    learner = unet_learner(
        loaders, resnet34, n_out=1, pretrained=False, loss_func=BCEWithLogitsLossFlat(axis=1), cbs=clock
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
    step = statistics.median(b - a for a, b in zip(clock.ends[2:], clock.ends[3:], strict=False))
    print(json.dumps({"images_per_second": round(32 / step, 2)}))


if __name__ == "__main__":
    main()
