"""What a user is told: errors, which refuse, and flags, which warn. One line each.

Every message says what was expected, what came, and what to do. The command line prints that line and
exits with code 2; in Python the classes can be caught one by one or together as `InterpretGANError`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["note", "warning", "failure"]
"""A note is routine on a budget; a warning is a reason to distrust a figure; a failure says that it means nothing."""


class InterpretGANError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(InterpretGANError):
    """Something the user handed in is not what it should be.

    Args:
        expected: What would have been right.
        got: What came instead.
        do: The remedy, as an instruction.
    """

    def __init__(self, *, expected: str, got: str, do: str) -> None:
        self.expected, self.got, self.do = expected, got, do
        super().__init__(f"expected {expected}, got {got}; {do}".replace("\n", " "))


class ImageError(InputError):
    """Images of the wrong shape, type or range."""


class LabelError(InputError):
    """Labels of the wrong shape, type or range."""


class ModelError(InputError):
    """A model whose output cannot be read as logits, or that cannot be built."""


class LayerError(InputError):
    """A layer that the network does not have, or a module call whose output does not fix the logits."""


class ThreatModelError(InputError):
    """An attack setting out of range."""


class DataError(InputError):
    """Data that are missing, truncated, empty or of a kind that cannot be read."""


class WeightsError(InputError):
    """A weights file that is missing, truncated or of another architecture."""


class RunFolderError(InputError):
    """A run folder that belongs to another configuration or cannot be written."""


class ConfigError(InputError):
    """A setting that does not exist or does not fit the others."""


class TrainingError(InputError):
    """A training that left the range of finite numbers, or that lost one of its processes."""


def kind_of(value: object) -> str:
    """What a value is, for `got`: its class, or type and shape of a tensor or array."""
    if value is None:
        return "none"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def in_a_line(error: BaseException) -> str:
    """What an error of somebody else's code says, for `got`: its class and the start of its text."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    if "weights_only" in text:  # torch's own words advise to load without it, which runs code of the file's
        text = "the file holds more than tensors"
    return f"{type(error).__name__}: {text[:300]}".removesuffix(": ")


@dataclass(frozen=True)
class Flag:
    """A reason to distrust a result, as a record: code reads its fields, people its message.

    Attributes:
        code: Which reason, e.g. `"noise_control"`.
        message: The reason in a line, made from the fields below.
        severity: How much it matters.
        layer: The layer that it is about. `None`: the whole result.
        value: The figure that raised it.
        threshold: The figure that it was compared with.
        details: Further figures and names that the message has.
    """

    code: str
    message: str
    severity: Severity = "warning"
    layer: str | None = None
    value: float | None = None
    threshold: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class FlagKind:
    """What all flags of one code share: called with the figures of one case, it makes the flag.

        NOISE = FlagKind("noise_control", "failure", "noise alone moves it by {value:+.3f}")
        flag = NOISE(layer="fc1", value=0.04, threshold=0.03)

    The template is the message, with `{layer}`, `{value}`, `{threshold}` and the names of details in braces.
    """

    code: str
    severity: Severity
    template: str

    def __call__(
        self, *, layer: str | None = None, value: float | None = None, threshold: float | None = None, **details: Any
    ) -> Flag:
        """The flag."""
        message = self.template.format(layer=layer, value=value, threshold=threshold, **details)
        return Flag(self.code, message, self.severity, layer, value, threshold, details)
