"""What this machine can do at best, measured."""

import os
import platform
import time
from typing import Any

from interpretgan.store.provenance import provenance

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
