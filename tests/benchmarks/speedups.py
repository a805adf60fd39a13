"""What each speed-up of saltseg.cpu gives: one training step of an SMP U-Net, batch 32, 128×128, bf16, channels_last.

    python tests/benchmarks/speedups.py [--encoder resnet34] [--rounds 3]

A row adds one speed-up to those above it, in a process of its own; figures are medians over steps and rounds.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time

import segmentation_models_pytorch as smp
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from saltseg import cpu
from saltseg.hardware import keep_memory

SPEEDUPS = {
    "as torch does it": None,
    "memory kept, in huge pages": "memory",
    "depthwise convolutions in float32": cpu.InFloat32,
    "convolutions of small maps as matrix products": cpu.ByMatrix,
    "upsampling folded into the convolution": cpu.FoldedUpsampling,
    "batch norm, sum and activation fused (compile=true)": "fuse",
}


def measure(encoder: str, count: int, steps: int = 20) -> dict[str, float]:
    """Seconds of forward, backward and optimizer with the first ``count`` speed-ups."""
    wanted = list(SPEEDUPS.values())[:count]
    if "memory" in wanted:
        keep_memory()
    torch.manual_seed(0)
    net = smp.Unet(encoder, encoder_weights=None).to(memory_format=torch.channels_last)
    cpu.suit_cpu(net, fuse="fuse" in wanted)
    for layer in net.modules():
        for faster in (cpu.InFloat32, cpu.ByMatrix, cpu.FoldedUpsampling):
            if isinstance(layer, faster) and faster not in wanted:
                layer.__class__ = type(layer).__mro__[2]  # the layer's own again
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    images = torch.randn(32, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(32, 1, 128, 128) > 0.5).float()
    seconds = []
    for _ in range(steps + 5):
        marks = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), masks)
        marks.append(time.perf_counter())
        optimizer.zero_grad()
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        marks.append(time.perf_counter())
        seconds.append([b - a for a, b in itertools.pairwise(marks)])
    return {
        name: statistics.median(column)
        for name, column in zip(("forward", "backward", "optimizer"), zip(*seconds[5:], strict=True), strict=True)
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        print(json.dumps(measure(args.encoder, args.count)))
        return
    rounds: list[list[dict[str, float]]] = [[] for _ in SPEEDUPS]
    for _ in range(args.rounds):
        for k, rows in enumerate(rounds):
            command = [sys.executable, __file__, "--encoder", args.encoder, "--count", str(k + 1)]
            rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    table = Table("with", "forward", "backward", "optimizer", "step, ms", "images/s", "ratio", box=None)
    first = 0.0
    for name, rows in zip(SPEEDUPS, rounds, strict=True):
        parts = [1e3 * statistics.median(r[p] for r in rows) for p in ("forward", "backward", "optimizer")]
        step = sum(parts)
        first = first or step
        table.add_row(name, *(f"{p:.0f}" for p in parts), f"{step:.0f}", f"{32e3 / step:.1f}", f"{first / step:.2f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
