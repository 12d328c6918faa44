"""What this machine can do at best, measured, and how much memory is held."""

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from interpretgan.store.provenance import provenance

if TYPE_CHECKING:
    import torch

# On a CPU, and on a GPU, which would be done with little work before it is asked.
SIZE = (2048, 8192)  #: Rows and columns of the matrices that are multiplied.
CONVOLVED = (64, 4096)  #: Maps that are convolved at a time.


def matmul_peak(dtype: str, *, repeats: int = 8, device: str = "cpu") -> float:
    """FLOP/s of a square matrix product of random numbers of a torch dtype, by its name; the best of several."""
    import torch

    size = SIZE[device.startswith("cuda")]
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device, getattr(torch, dtype))
    return 2 * size**3 / fastest(lambda: torch.mm(a, b), repeats=repeats, device=device)


def conv_peak(dtype: str, *, repeats: int = 8, device: str = "cpu") -> float:
    """FLOP/s of a 3 × 3 convolution of 128 channels with its channels last, likewise."""
    import torch
    import torch.nn.functional as F

    random, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    count = CONVOLVED[device.startswith("cuda")]
    maps = torch.randn(count, 128, 16, 16, generator=random).to(device, kind, memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, generator=random).to(device, kind, memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = fastest(lambda: F.conv2d(maps, weight, padding=1), repeats=repeats, device=device)
    return 2 * maps.numel() * 128 * 9 / seconds


def fastest(work: Callable[[], object], *, repeats: int, device: str = "cpu") -> float:
    """The least seconds that a piece of work took, after once that warms up."""
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up, and cannot be the best
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        best = min(best, time.perf_counter() - began)
    return best


def wait_for(device: str) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def describe(*, repeats: int = 8, device: str = "cpu", convolutions: bool = False, **peaks: str) -> dict[str, Any]:
    """Processor, cores, threads, versions and system, and the measured peak of each named dtype.

    `describe(fp32="float32")` measures that of single precision, in GFLOP/s, as the best of `repeats`; with
    `convolutions` also that of a convolution.
    """
    known = provenance(seed=0, device=device)
    found = {name: known[name] for name in ("processor", "threads", "version", "versions")}
    measured = {
        f"{work.__name__.removesuffix('_peak')}_gflops": {
            name: work(dtype, repeats=repeats, device=device) / 1e9 for name, dtype in peaks.items()
        }
        for work in ((matmul_peak, conv_peak) if convolutions else (matmul_peak,))
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**found, "cores": os.cpu_count(), "load": load, "system": platform.system(), **measured}


def peak_memory_mib() -> int:
    """The most memory that this process has held, in MiB: so far, or since the last `PeakMemory` began on Linux."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


class PeakMemory(AbstractContextManager["PeakMemory"]):
    """The most memory that is held inside, of the device, or of the process where that is the CPU.

    Only on Linux can an earlier peak of the process be left out. Elsewhere it is the peak so far.
    """

    def __init__(self, device: "torch.device") -> None:
        self.device, self.mib = device, 0

    def __enter__(self) -> Self:
        """Begin."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError, AttributeError):  # what was freed goes back to the system first; glibc alone can
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):  # no such file, or not ours to write
                Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        """Measure."""
        import torch

        on_gpu = self.device.type == "cuda"
        self.mib = torch.cuda.max_memory_allocated(self.device) // 2**20 if on_gpu else peak_memory_mib()
