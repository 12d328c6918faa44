"""Numbers per training step, one JSON object a line."""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from operator import index
from pathlib import Path
from typing import Any

from interpretgan.errors import RunFolderError
from interpretgan.store.files import atomic_write_text, plain, reading, writing


class MetricsLog(AbstractContextManager["MetricsLog"]):
    """A file with numbers per training step, each record on disk as soon as it is written.

    Records of steps before `from_step` are kept, later ones and a line torn by a crash are dropped, so a resumed run
    leaves the file of an unbroken one.
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
        """Append one record, `{"step": step, **values}`. On a full disk the file ends with the record before it."""
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

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics file, in order; a last line torn by a crash is left out."""
    with reading(path):
        lines = Path(path).read_bytes().split(b"\n")[:-1]  # whatever follows the last newline is torn
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
            index(records[-1]["step"])
        except (ValueError, TypeError, KeyError) as error:
            got, do = f"a damaged line {number}", "delete the run folder and start again"
            raise RunFolderError(expected=f"JSON with a step on each line of {path}", got=got, do=do) from error
    return records


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"
