"""What this machine is good at: where to compute, in which precision and memory layout; and how it lends memory."""

import ctypes
import os
from dataclasses import dataclass
from functools import cache

import torch

MADV_HUGEPAGE = 14
HUGE_PAGE = 1 << 21
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


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


@cache
def keep_memory() -> None:
    """Have this process keep the memory that it frees, in huge pages, instead of asking for it anew in every step.

    A step allocates and frees gigabytes; each new page is cleared by the kernel first, a tenth of the time. Does
    nothing where the C library isn't glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "madvise"):
        return
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
    # The heap grows once by as much as a training may need. That is address space: nobody has touched its pages yet.
    start = libc.sbrk(0)
    libc.free(libc.malloc(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4))
    start = -(-start // HUGE_PAGE) * HUGE_PAGE
    if (size := (libc.sbrk(0) - start) // HUGE_PAGE * HUGE_PAGE) > 0:
        libc.madvise(start, size, MADV_HUGEPAGE)
