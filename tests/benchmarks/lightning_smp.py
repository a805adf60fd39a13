"""The article's ResNet34 as a LightningModule on SMP, in the manner of lightning-hydra-template.

    python lightning_smp.py --data DIR [--steps 20]

DIR holds ``images/`` and ``masks/``. bf16-mixed, as a user would set it; prints one JSON line: images per second, the
median over steps after a warm-up.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import lightning
import segmentation_models_pytorch as smp
import torch
import torchmetrics
from plain_unet import Salt, augmentation
from torch.utils.data import DataLoader


class Unet(lightning.LightningModule):
    """As the template's module: a metric a stage, logged a step and an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = smp.Unet("resnet34", encoder_weights=None, in_channels=3, classes=1)
        self.loss = torch.nn.BCEWithLogitsLoss()
        self.score = torchmetrics.JaccardIndex("binary")
        self.train_loss = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        images, masks = batch
        logits = self.net(images)
        loss = self.loss(logits.float(), masks)
        self.train_loss(loss)
        self.score(logits.sigmoid(), masks.int())
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/iou", self.score, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


class Clock(lightning.Callback):
    """Seconds of each step, loading included."""

    def __init__(self) -> None:
        self.ends = []

    def on_train_batch_end(self, *_) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    loader = DataLoader(Salt(args.data, augmentation(), True), 32, shuffle=True, num_workers=1, drop_last=True)
    clock = Clock()
    lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=args.steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    ).fit(Unet(), loader)
    step = statistics.median(b - a for a, b in zip(clock.ends[2:], clock.ends[3:], strict=False))
    print(json.dumps({"images_per_second": round(32 / step, 2)}))


if __name__ == "__main__":
    main()
