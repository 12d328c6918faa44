"""The state of long work on disk: written whole or not at all, and read only by the same work."""

import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interpretgan.errors import RunFolderError
from interpretgan.store.files import atomic_file
from interpretgan.store.provenance import package_version


class Checkpoint:
    """A file from which interrupted work goes on.

    Args:
        path: The file. `None`: nothing is kept.
        fingerprint: Which work it is; see `fingerprint_of`.
        every: Seconds between two saves; infinity reads the file and never writes it.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, *, every: float = math.inf) -> None:
        self.path, self.fingerprint, self.every = None if path is None else Path(path), fingerprint, every
        self._saved_at = time.monotonic()

    def due(self, *, last: bool = False) -> bool:
        """Whether it is time to save, as it always is after the last step."""
        overdue = last or time.monotonic() - self._saved_at >= self.every
        return self.path is not None and math.isfinite(self.every) and overdue

    def save(self, state: Mapping[str, Any]) -> None:
        """Write tensors and plain values in place of what was saved before."""
        assert self.path is not None, "save where it is due"
        with atomic_file(self.path) as file:
            try:
                torch.save({"fingerprint": self.fingerprint, "state": dict(state)}, file)
            except RuntimeError as error:  # that the file cannot be ended hides why, for instance a full disk
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        self._saved_at = time.monotonic()

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """What was saved last, with its tensors on a device; `None` where there is no file.

        A file that is damaged, or of other work, is a `RunFolderError`.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location=device, weights_only=True)
            fingerprint, state = content["fingerprint"], dict(content["state"])
        except Exception as error:  # what the reader of a damaged file raises is of a dozen kinds
            got, do = f"{self.path}, which cannot be read", "delete it to start over"
            raise RunFolderError(expected="a complete checkpoint", got=got, do=do) from error
        if fingerprint != self.fingerprint:
            got = f"{self.path}, of another model, data set, setting or version"
            do = "choose another file, or delete it to start over"
            raise RunFolderError(expected="a checkpoint of the same work", got=got, do=do)
        return state


def fingerprint_of(*parts: object) -> str:
    """Hash of all that must be the same for a checkpoint to be continued, and of the versions of what computes.

    Of a network it is the names and shapes of its tensors.
    """
    plain = [
        [(name, tuple(value.shape)) for name, value in part.named_parameters()] if isinstance(part, nn.Module) else part
        for part in parts
    ]
    versions = [package_version(name) for name in ("interpretgan", "torch", "pyautoattack")]
    return hashlib.sha256(repr((*plain, versions)).encode()).hexdigest()
