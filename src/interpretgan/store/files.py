"""Files that appear whole or not at all, and JSON with numbers as numbers."""

import errno
import hashlib
import io
import json
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from interpretgan.errors import RunFolderError, in_a_line

ARRAYS_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, TypeError, IndexError, SyntaxError, MemoryError, RuntimeError,
    OverflowError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy raises on files of arrays that are damaged or something else."""


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` when the block ends; missing folders are made.

    The data goes to a temporary file in the same folder, which is synced and then renamed: a reader sees the old
    content or the new one, never half of it. After an error, a `RunFolderError` where it is of the disk, nothing has
    changed.
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
        with suppress(OSError):  # so that the rename survives a power cut, where the file system offers that
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write the whole content of a file through `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8 through `atomic_file`."""
    atomic_write_bytes(path, text.encode())


def write_npy(path: str | os.PathLike[str], shape: tuple[int, ...], batches: Iterable[Any]) -> None:
    """Write an array of a shape to .npy through `atomic_file`, from batches along its first axis, one at a time."""
    import numpy as np

    with atomic_file(path) as file:
        for number, batch in enumerate(batches):
            if not number:
                header = {"descr": batch.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(batch).tobytes())


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays by name to one compressed .npz through `atomic_file`."""
    import numpy as np

    with atomic_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The arrays of an .npz file by name, of plain numbers and texts; nothing in it is run.

    A `RunFolderError` where `path` is missing, damaged or something else than `what`.
    """
    import numpy as np

    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except ARRAYS_DAMAGED as error:
        got, do = f"a missing or damaged file ({in_a_line(error)})", "delete it, and make it again"
        raise RunFolderError(expected=f"{what} in {path}", got=got, do=do) from error


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value, made `plain`, as indented JSON through `atomic_file`."""
    atomic_write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], do: str | None = None) -> Any:
    """The value in a JSON file; a `RunFolderError` where it is missing, unreadable, truncated or not JSON.

    `do` is what the error advises, where the file alone cannot be made again.
    """
    with reading(path, "JSON file", do):
        content = Path(path).read_bytes()
    try:
        return json.loads(content, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        got, do = f"a truncated or damaged file ({error})", do or "delete it and run the command that writes it again"
        raise RunFolderError(expected=f"JSON in {path}", got=got, do=do) from error


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # no file of ours has one
        raise ValueError(f"{text} is not a finite number")
    return value


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with reading(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: object) -> object:
    """A value as JSON has it: made of `dict`, `list`, `str`, `int`, `float`, `bool` and `None` alone.

    Numbers stay numbers (scalars and arrays of NumPy and torch included), keys keep their order, paths become strings,
    and NaN and infinity `None`. Anything else is a `TypeError`, and so are keys that are not strings.
    """
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


@contextmanager
def reading(path: str | os.PathLike[str], what: str = "file", do: str | None = None) -> Iterator[None]:
    """Turn an `OSError` in the block, which reads `path`, into a `RunFolderError` that advises to `do` something."""
    try:
        yield
    except OSError as error:
        do = do or "check the path, or run what makes it again"
        raise RunFolderError(expected=f"a readable {what} {path}", got=_reason(error), do=do) from error


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an `OSError` in the block, which writes `path`, into a `RunFolderError` that says what to do."""
    try:
        yield
    except OSError as error:
        expected, got, do = f"a writable path {path}", _reason(error), "choose a folder that you may write to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            expected, got = f"room on the disk for {path}", "a full disk"
            do = "free some space, then run the same command again"
        raise RunFolderError(expected=expected, got=got, do=do) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
