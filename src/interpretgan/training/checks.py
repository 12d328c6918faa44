"""What every training refuses: settings out of their range, and losses that are no longer finite."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Annotated, get_args, get_type_hints

from interpretgan.errors import ConfigError, TrainingError

RANGES: dict[str, Callable[[float], bool]] = {
    ">= 1": lambda value: value >= 1,
    ">= 0": lambda value: value >= 0,
    "> 0": lambda value: value > 0,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 to below 1": lambda value: 0 <= value < 1,
}
Count = Annotated[int, ">= 1"]
WholeNumber = Annotated[int, ">= 0"]
Positive = Annotated[float, "> 0"]
NotNegative = Annotated[float, ">= 0"]
Share = Annotated[float, "from 0 to 1"]
Decay = Annotated[float, "from 0 to below 1"]


class Checked:
    """Base of a dataclass whose values are checked against their annotations.

    A `Count` must be in its range, and an `Annotated[str, ("a", "b")]` one of these two. `None` is in any range.
    """

    def __post_init__(self) -> None:
        """Refuse, by a `ConfigError`, a value out of its range, not finite, or not among its choices."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name, None)
            parts = [part for part in (hint, *get_args(hint)) if hasattr(part, "__metadata__")]
            for rule, whole in ((rule, part.__origin__ is int) for part in parts for rule in part.__metadata__):
                choices, number = isinstance(rule, tuple), isinstance(value, Integral if whole else Real)
                number = number and not isinstance(value, bool)
                fits = value in rule if choices else value is None or (
                    number and math.isfinite(value) and RANGES[rule](value)
                )  # fmt: skip
                if not fits:
                    expected = f"{name} among {', '.join(rule)}" if choices else f"{name} {rule}"
                    expected += ", a whole number" if whole and not number else ""
                    usual = getattr(type(self), name, None)
                    do = f"correct {name}" if usual is None else f"try {usual}"
                    raise ConfigError(expected=expected, got=repr(value), do=do)


def require_finite(losses: Mapping[str, float], step: int) -> None:
    """Stop a training, by a `TrainingError`, after a step whose losses are not all finite."""
    if not all(map(math.isfinite, losses.values())):
        shown = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        raise TrainingError(expected="finite losses", got=f"{shown} at step {step}", do="lower the learning rate")
