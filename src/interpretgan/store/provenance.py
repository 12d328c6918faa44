"""Where a result comes from: versions, machine, seed."""

import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

# Packages whose version can change a number, and so goes into every provenance.
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "foolbox", "pyautoattack")


def provenance(seed: int, *, device: str = "cpu") -> dict[str, Any]:
    """Where a result comes from: enough to repeat it, and to see why a repeat differs.

    It has the `version` of this package, `seed`, `versions` of Python and of each package that numbers depend on, the
    torch `device`, `processor`, `threads` of torch, and `created` (UTC, ISO 8601).
    """
    import torch

    on_gpu = torch.device(device).type == "cuda"
    packages = {name: package_version(name) for name in RECORDED_PACKAGES}
    return {
        "version": package_version("interpretgan"),
        "seed": seed,
        "versions": {"python": platform.python_version(), **packages},
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def package_version(package: str) -> str | None:
    """Version of an installed package, or `None`."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _processor() -> str:
    """The processor's model name; `platform.processor()` is empty on most Linux systems."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
