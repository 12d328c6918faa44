"""Numbers per training step, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from interpretgan.errors import RunFolderError
from interpretgan.store.files import atomic_write_text, plain, reason, writing


class MetricsLog:
    """A file with numbers per training step, each record on disk as soon as it is written.

    Args:
        path: The `.jsonl` file.
        from_step: The first step that will be written. Records of earlier steps are kept, later ones and a line torn
            by a crash are dropped, so a resumed run leaves the file of an unbroken one.

    Raises:
        RunFolderError: The file cannot be written, or a line in its middle is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, from_step: int = 0) -> None:
        self.path = Path(path)
        if self.path.exists():
            kept = [record for record in read_metrics(self.path) if record["step"] < from_step]
            atomic_write_text(self.path, "".join(map(_line, kept)))
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)

    def write(self, step: int, **values: object) -> None:
        """Append one record, `{"step": step, **values}`; NaN and infinity become `null`.

        Raises:
            RunFolderError: The disk is full. The file then ends with the record before this one.
        """
        rest = _line({"step": step, **values}).encode()
        with writing(self.path):
            start = os.fstat(self._file.fileno()).st_size
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(start)
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, also after an error."""
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics file, in order; a last line torn by a crash is left out.

    Raises:
        RunFolderError: The file cannot be read, or a line before the last is damaged.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]  # whatever follows the last newline is torn
    except OSError as error:
        raise RunFolderError(
            expected=f"a readable metrics file {path}", got=reason(error), do="check the path"
        ) from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise RunFolderError(
                expected=f"one JSON object with a step on each line of {path}",
                got=f"a damaged line {number}",
                do="delete the run folder and start the run again",
            )
        records.append(record)
    return records


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"
