"""Files that appear whole or not at all, and JSON with numbers as numbers."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from interpretgan.errors import RunFolderError


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new binary file that a reader sees whole or not at all.

    The block writes a temporary file in the same folder. When the block ends it is synced and renamed to `path`; when
    the block fails it is removed. Missing folders are made.

    Args:
        path: The file to write or replace.

    Raises:
        RunFolderError: The disk is full, or the place cannot be written. What was at `path` is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` as the whole content of a file; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8 as the whole content of a file; see `atomic_file`."""
    atomic_write_bytes(path, text.encode())


def write_npy(path: str | os.PathLike[str], shape: tuple[int, ...], batches: Iterable[Any]) -> None:
    """Write an array to .npy batch by batch, so that it need not be in memory as a whole; see `atomic_file`.

    Args:
        path: The file to write or replace.
        shape: Of the whole array.
        batches: Arrays of one type, which make it up along its first axis.

    Raises:
        RunFolderError: See `atomic_file`.
    """
    import numpy as np

    with atomic_file(path) as file:
        for number, batch in enumerate(batches):
            if not number:
                header = {"descr": batch.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(batch).tobytes())


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as indented JSON, atomically.

    Numbers stay numbers (NumPy and torch scalars and arrays included), keys keep their order, and NaN and
    infinity become `null`, which every JSON reader understands.

    Args:
        path: The file to write or replace.
        value: Mappings with string keys, sequences, strings, paths, numbers, booleans and `None`, nested.

    Raises:
        RunFolderError: See `atomic_write_bytes`.
        TypeError: The value holds something that is not JSON.
    """
    atomic_write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file.

    Raises:
        RunFolderError: The file is missing, unreadable, truncated or no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise RunFolderError(
            expected=f"a readable JSON file {path}", got=reason(error), do="check the path, or run the command again"
        ) from error
    except ValueError as error:
        raise RunFolderError(
            expected=f"JSON in {path}",
            got=f"a truncated or damaged file ({error})",
            do="delete the file and run the command that writes it again",
        ) from error


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        RunFolderError: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunFolderError(expected=f"a readable file {path}", got=reason(error), do="check the path") from error


def plain(value: object) -> object:
    """The same value out of `dict`, `list`, `str`, `int`, `float`, `bool` and `None` alone."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"JSON keys are strings, got {key!r}: reading it back would not give the same value")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch, scalars and arrays, without importing either
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} is not JSON: {value!r}")


def reason(error: OSError) -> str:
    """What went wrong, e.g. `no such file or directory`."""
    return (error.strerror or str(error)).lower()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block, which writes `path`, into a `RunFolderError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFolderError(
                expected=f"room on the disk for {path}",
                got="a full disk",
                do="free some space, then run the same command again",
            ) from error
        raise RunFolderError(
            expected=f"a writable path {path}", got=reason(error), do="choose a folder that you may write to"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system offers that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
