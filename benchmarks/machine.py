"""What this machine can do at best, measured, and how much a piece of code asks of it."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from interpretgan.store.provenance import provenance

SIZE = 2048


def matmul_peak(dtype: torch.dtype, *, repeats: int = 8) -> float:
    """FLOP/s of a square matrix product of random numbers, the best of several."""
    a, b = torch.randn(2, SIZE, SIZE).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up, and cannot be the best
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * SIZE**3 / best


def describe() -> dict[str, Any]:
    """The machine and its measured peaks."""
    known = provenance(seed=0)
    return {
        "processor": known["processor"],
        "threads": known["threads"],
        "versions": known["versions"],
        "system": platform.system(),
        "matmul_gflops": {"fp32": matmul_peak(torch.float32) / 1e9, "bf16": matmul_peak(torch.bfloat16) / 1e9},
    }


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts floating point operations by torch's own formulas, also where the code takes gradients by hand."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out
