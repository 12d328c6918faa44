"""What every training refuses: settings out of their range, and losses that are no longer finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interpretgan.errors import ConfigError, TrainingError

RANGES: dict[str, Callable[[float], bool]] = {
    ">= 1": lambda value: value >= 1,
    ">= 0": lambda value: value >= 0,
    "> 0": lambda value: value > 0,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 to below 1": lambda value: 0 <= value < 1,
}


def check_settings(settings: Any, ranges: Mapping[str, Sequence[str]]) -> None:
    """Refuse a dataclass with a value out of its range; `None` is in any.

    Args:
        settings: The dataclass.
        ranges: The names of its fields by their range, a key of `RANGES`.

    Raises:
        ConfigError: A value is out of its range, or not finite.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for expected, names in ranges.items():
        for name in names:
            value, default = getattr(settings, name), defaults[name]
            if value is not None and not (math.isfinite(value) and RANGES[expected](value)):
                known = default is not dataclasses.MISSING and default is not None
                raise ConfigError(
                    expected=f"{name} {expected}", got=str(value), do=f"try {default}" if known else f"correct {name}"
                )


def require_finite(losses: Mapping[str, float], step: int) -> None:
    """Stop a training whose losses left the finite numbers.

    Args:
        losses: By name.
        step: How many steps are finished.

    Raises:
        TrainingError: One is infinite or NaN.
    """
    if not all(map(math.isfinite, losses.values())):
        shown = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        raise TrainingError(expected="finite losses", got=f"{shown} at step {step}", do="lower the learning rate")
