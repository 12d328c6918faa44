"""Run folders: what a run writes, so that it can be resumed, compared and reported on its own.

One process at a time owns a folder, and the configuration is on disk before the first step.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from interpretgan.errors import RunFolderError
from interpretgan.store.files import plain, read_json, write_json, writing

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
OURS = (LOCK_FILE, "layers.json")
"""Files of ours that a folder may hold before a run begins in it."""
UP_TO_ROUNDING = ("devices",)
"""Settings that change no more than the last digits of a result: a run may go on with others."""


class RunFolder:
    """A folder that one run writes to, with the configuration that made it.

    `open` claims it, `close` (or leaving the `with` block, or the end of the process) releases it:

        with RunFolder("out/lenet").open(config) as run:
            write_json(run / "diagnosis.json", diagnosis)

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.resumed = False
        self._lock: BinaryIO | None = None

    def open(self, config: Mapping[str, Any], *, resume: bool = True) -> Self:
        """Claim the folder for this process and for this configuration.

        A new or empty folder gets `config.json`. A folder of the same configuration is resumed: `resumed` is
        true, and temporary files of a killed run are removed. Configurations are compared as JSON, so a tuple
        equals a list; settings of `UP_TO_ROUNDING` may differ.

        Args:
            config: The resolved configuration, everything that the results depend on.
            resume: `False` refuses a folder that already holds a run.

        Returns:
            This folder.

        Raises:
            RunFolderError: The folder holds a run of another configuration (the message names the keys that
                differ) or files that are no run, another process is using it, or it cannot be written.
        """
        wanted = json.loads(json.dumps(plain(config)))
        config_path = self.path / CONFIG_FILE
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_other_files()
            self._claim()
        try:
            self.resumed = config_path.exists()
            if self.resumed:
                found = self._compare(read_json(config_path), wanted, resume=resume)
                with writing(self.path):
                    for leftover in self.path.rglob(".*.tmp"):
                        leftover.unlink()
                if {**found, **wanted} != found:
                    write_json(config_path, {**found, **wanted})
            else:
                write_json(config_path, wanted)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Release the folder for other processes. The files stay."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def __enter__(self) -> Self:
        """The folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the folder, also after an error."""
        self.close()

    def _refuse_other_files(self) -> None:
        names = sorted(entry.name for entry in self.path.iterdir())
        strangers = [name for name in names if name not in OURS and not name.endswith(".tmp")]
        if strangers and CONFIG_FILE not in strangers:
            raise RunFolderError(
                expected=f"a new, empty or run folder {self.path}",
                got=f"a folder with other files in it ({strangers[0]}, {len(strangers)} in all)",
                do="choose a new folder",
            )

    def _claim(self) -> None:
        if self._lock is not None:
            raise RunFolderError(
                expected=f"a run folder {self.path} that is not open", got="one opened twice", do="close it first"
            )
        lock = (self.path / LOCK_FILE).open("a+b")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().decode(errors="replace").strip() or "unknown"
            lock.close()
            raise RunFolderError(
                expected=f"a run folder {self.path} that no other process is using",
                got=f"one in use by process {owner}",
                do="wait until it ends, or choose another folder",
            ) from None
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()

    def _compare(self, found: object, wanted: dict[str, Any], *, resume: bool) -> dict[str, Any]:
        """The folder's configuration, which agrees with `wanted` in every section that both have."""
        if not resume:
            raise RunFolderError(
                expected=f"a new run folder {self.path}",
                got="one that already holds a run",
                do="choose another folder, or allow it to be resumed",
            )
        if not isinstance(found, dict):
            raise RunFolderError(
                expected=f"a configuration in {self.path / CONFIG_FILE}",
                got=_short(found),
                do="delete the folder, or choose a new one",
            )
        compared = [key for key in found if key in wanted and key not in UP_TO_ROUNDING]
        different = [line for key in compared for line in differences(found[key], wanted[key], key)]
        if different:
            raise RunFolderError(
                expected=f"the configuration that made {self.path}",
                got=f"another one: {', '.join(different)}",
                do="use the old settings to resume it, or choose a new folder",
            )
        return found


def differences(found: object, wanted: object, name: str = "") -> Iterator[str]:
    """Each dotted key whose value differs, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*found, *wanted]):
            dotted = f"{name}.{key}" if name else str(key)
            if key not in wanted:
                yield f"{dotted} ({_short(found[key])} there, absent here)"
            elif key not in found:
                yield f"{dotted} (absent there, {_short(wanted[key])} here)"
            else:
                yield from differences(found[key], wanted[key], dotted)
    elif found != wanted:
        yield f"{name or 'config'} ({_short(found)} there, {_short(wanted)} here)"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
