"""The state of long work on disk: written whole or not at all, read only by the same work."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from interpretgan.errors import RunFolderError
from interpretgan.store.files import atomic_write_bytes
from interpretgan.store.provenance import package_version


def fingerprint_of(*parts: object) -> str:
    """Hash of all that must be the same for a checkpoint to be continued, with the versions that numbers depend on."""
    versions = [package_version(name) for name in ("interpretgan", "torch", "pyautoattack")]
    return hashlib.sha256(repr((*parts, versions)).encode()).hexdigest()


def save_checkpoint(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write tensors and plain values, in place of an older checkpoint.

    Raises:
        RunFolderError: The place cannot be written.
    """
    content = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "state": state}, content)
    atomic_write_bytes(path, content.getvalue())


def load_checkpoint(path: Path, fingerprint: str, place: torch.device) -> dict[str, Any]:
    """What `save_checkpoint` was given.

    Raises:
        RunFolderError: The file is damaged, or of other work.
    """
    try:
        content = torch.load(path, map_location=place, weights_only=True)
        saved, state = content["fingerprint"], dict(content["state"])
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise RunFolderError(
            expected="a complete checkpoint", got=f"{path}, which cannot be read", do="delete it to start over"
        ) from error
    if saved != fingerprint:
        raise RunFolderError(
            expected="a checkpoint of the same work",
            got=f"{path}, of another model, data set, setting or version",
            do="choose another file, or delete it to start over",
        )
    return state
