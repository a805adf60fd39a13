"""What this machine is good at: where to compute, in which precision and memory layout."""

import os
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Hardware:
    """A choice, and why.

    Attributes:
        accelerator: a Lightning accelerator.
        precision: a Lightning precision.
        memory_format: ``channels_last`` or ``contiguous``.
        reason: for the person who runs it.
    """

    accelerator: str
    precision: str
    memory_format: str
    reason: str

    @property
    def jobs(self) -> int:
        """How many trainings run well side by side: a GPU takes one; without, each gets four cores if there are."""
        return 1 if self.accelerator == "gpu" else max(min(cores(), 2), cores() // 4)

    @property
    def cores_per_job(self) -> int:
        """What is left for each of them."""
        return max(cores() // self.jobs, 1)

    @property
    def gpus_per_job(self) -> int:
        """The device of each."""
        return int(self.accelerator == "gpu")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def detect() -> Hardware:
    """The settings that are fast here without changing what is learned."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        return Hardware("gpu", precision, "channels_last", name)
    if torch.backends.mps.is_available():
        return Hardware("mps", "32-true", "contiguous", "Apple GPU")
    if torch.cpu._is_amx_tile_supported():
        return Hardware("cpu", "bf16-mixed", "channels_last", "CPU with AMX")
    if torch.cpu._is_avx512_bf16_supported():
        return Hardware("cpu", "bf16-mixed", "channels_last", "CPU with AVX512-BF16")
    return Hardware("cpu", "32-true", "channels_last", "CPU without fast bfloat16")
