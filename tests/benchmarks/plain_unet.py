"""The article's experiment as one plain PyTorch script: what a user would write instead of using
saltseg.

    python plain_unet.py --data DIR [--encoder resnet34] [--tuned] [--steps 20]

DIR holds `images/` and `masks/`. Without --tuned: float32, default memory format, PNGs read on every access,
as a first script does it. With --tuned: bfloat16 autocast, channels_last, images held in memory, and nothing
else in the loop; the figure a framework is to be measured against for its own overhead.
Prints one JSON line: images per second of the training loop (median over steps after a warm-up).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

cv2.setNumThreads(0)


class Salt(Dataset):
    def __init__(self, root: Path, transform, in_memory: bool):
        self.pairs = [(p, root / "masks" / p.name) for p in sorted((root / "images").glob("*.png"))]
        self.transform = transform
        self.cache = [self.read(k) for k in range(len(self.pairs))] if in_memory else None

    def read(self, k):
        image, mask = self.pairs[k]
        return cv2.imread(str(image)), (cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) > 0).astype(np.float32)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, k):
        image, mask = self.cache[k] if self.cache else self.read(k)
        out = self.transform(image=image, mask=mask)
        return torch.from_numpy(out["image"]).permute(2, 0, 1), torch.from_numpy(out["mask"])[None]


def augmentation():
    return A.Compose(
        [
            A.HorizontalFlip(),
            A.VerticalFlip(),
            A.RandomRotate90(),
            A.OpticalDistortion(),
            A.Transpose(),
            A.PadIfNeeded(128, 128, border_mode=cv2.BORDER_REFLECT_101),
            A.Normalize(),
        ]
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()

    loader = DataLoader(
        Salt(args.data, augmentation(), args.tuned),
        args.batch_size,
        shuffle=True,
        num_workers=args.workers,
        drop_last=True,
    )
    layout = torch.channels_last if args.tuned else torch.contiguous_format
    net = smp.Unet(args.encoder, encoder_weights=None, in_channels=3, classes=1).to(memory_format=layout)
    loss_fn = torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    seconds, batches = [], iter(loader)
    start = time.perf_counter()
    for _ in range(args.steps):
        images, masks = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.tuned):
            logits = net(images.to(memory_format=layout))
        loss = loss_fn(logits.float(), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    step = statistics.median(seconds[3:])
    print(
        json.dumps(
            {"encoder": args.encoder, "tuned": args.tuned, "images_per_second": round(args.batch_size / step, 2)}
        )
    )


if __name__ == "__main__":
    main()
