"""User-facing errors: one tree, one line each.

Every message says what was expected, what came, and what to do. The command line prints that line and
exits with code 2; in Python the classes can be caught one by one or together as `InterpretGANError`.
"""

from __future__ import annotations


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


class CutError(InputError):
    """A layer name that does not exist or that is not a cut of the network."""


class ThreatModelError(InputError):
    """An attack setting out of range."""


class DataError(InputError):
    """A data set that is missing, truncated or empty."""


class WeightsError(InputError):
    """A weights file that is missing, truncated or of another architecture."""


class RunFolderError(InputError):
    """A run folder that belongs to another configuration or cannot be written."""


class ConfigError(InputError):
    """A setting that does not exist or does not fit the others."""


class TrainingError(InputError):
    """A training that left the range of finite numbers, or that lost one of its processes."""
