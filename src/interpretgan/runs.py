"""Run folders: what a run writes, so that it can be resumed, compared and reported on its own.

One process at a time owns a folder, and the configuration is on disk before the first step.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from interpretgan.errors import RunFolderError
from interpretgan.files import atomic_write_text, plain, read_json, reason, write_json, writing

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
OURS = (LOCK_FILE, "layers.json")
"""Files of ours that a folder may hold before a run begins in it."""
UP_TO_ROUNDING = ("devices",)
"""Settings that change no more than the last digits of a result: a run may go on with others."""
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "foolbox", "pyautoattack")
"""Packages whose version can change a number, and so goes into every provenance."""


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
                expected=f"a run folder {self.path} that is not open",
                got="one opened twice",
                do="close it first",
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


class MetricsLog:
    """Numbers per training step, one JSON object a line, each on disk as soon as it is written.

    Args:
        path: The `.jsonl` file.
        from_step: The first step that will be written. Records of earlier steps are kept, those at or after
            it and a line torn by a crash are dropped, so a resumed run leaves the file of an unbroken one.

    Raises:
        RunFolderError: The file cannot be written, or a line in its middle is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, from_step: int = 0) -> None:
        self.path = Path(path)
        if self.path.exists():
            kept = [record for record in read_metrics(self.path) if record["step"] < from_step]
            atomic_write_text(self.path, "".join(_line(record) for record in kept))
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
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise RunFolderError(
            expected=f"a readable metrics file {path}", got=reason(error), do="check the path"
        ) from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # whatever follows the last newline is torn
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


def provenance(seed: int, *, device: str = "cpu") -> dict[str, Any]:
    """Where a result comes from: enough to repeat it, and to see why a repeat differs.

    Args:
        seed: The seed of the run.
        device: The torch device that it ran on.

    Returns:
        `version` of this package, `seed`, `versions` of Python and of each package that numbers depend on,
        `device`, `processor`, `threads` of torch, and `created` (UTC, ISO 8601).
    """
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return {
        "version": package_version("interpretgan"),
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(name) for name in RECORDED_PACKAGES},
        },
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def package_version(package: str) -> str | None:
    """Version of an installed package, or `None`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model name; `platform.processor()` is empty on most Linux systems."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
