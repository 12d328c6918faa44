"""What this machine can do at best, measured."""

import os
import platform
import resource
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from interpretgan.store.provenance import provenance

if TYPE_CHECKING:
    import torch

SIZE = 2048  #: Rows and columns of the matrices that are multiplied.


def matmul_peak(dtype: str, *, repeats: int = 8) -> float:
    """FLOP/s of a square matrix product of random numbers of a torch dtype, by its name; the best of several."""
    import torch

    a, b = torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up, and cannot be the best
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * SIZE**3 / best


def describe(*, repeats: int = 8, **peaks: str) -> dict[str, Any]:
    """Processor, cores, threads, versions and system, and the measured peak of each named dtype.

    `describe(fp32="float32")` measures that of single precision, in GFLOP/s, as the best of `repeats`.
    """
    known = provenance(seed=0)
    found = {name: known[name] for name in ("processor", "threads", "version", "versions")}
    measured = {name: matmul_peak(dtype, repeats=repeats) / 1e9 for name, dtype in peaks.items()}
    return {**found, "cores": os.cpu_count(), "system": platform.system(), "matmul_gflops": measured}


def peak_memory_mib() -> int:
    """The most memory that this process has held, in MiB: so far, or since the last `PeakMemory` began on Linux."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


class PeakMemory(AbstractContextManager["PeakMemory"]):
    """The most memory that is held inside, of the device, or of the process where that is the CPU.

    Only Linux forgets an earlier peak of the process. Elsewhere it is the peak so far.
    """

    def __init__(self, device: "torch.device") -> None:
        self.device, self.before, self.mib = device, 0, 0

    def __enter__(self) -> Self:
        """Begin."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device) // 2**20
        else:
            with suppress(OSError):  # no such file, or not ours to write
                Path("/proc/self/clear_refs").write_text("5")
            self.before = peak_memory_mib()
        return self

    def __exit__(self, *_: object) -> None:
        """Measure."""
        import torch

        on_gpu = self.device.type == "cuda"
        self.mib = torch.cuda.max_memory_allocated(self.device) // 2**20 if on_gpu else peak_memory_mib()

    def scaled(self, factor: float) -> int:
        """What it would be if that which came inside were so many times as much."""
        return self.before + int(factor * (self.mib - self.before))
