"""Run folders: what a run writes, so that it can be resumed, compared and reported on its own.

One process at a time owns a folder, and the configuration is on disk before the first step.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from interpretgan.errors import RunFolderError
from interpretgan.store.files import plain, read_json, write_json, writing

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "classifier.safetensors"
LOCK_FILE = ".lock"
OWNER_FILE = ".owner"
OURS = (LOCK_FILE, OWNER_FILE, "layers.json")
"""Files of ours that a folder may hold before a run begins in it."""
UP_TO_ROUNDING = ("devices",)
"""Settings that change no more than the last digits of a result: a run may go on with others."""

ANSWERS = "answers"
"""The setting that has what the network makes of fixed images: the same numbers, up to rounding, from the same code."""


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
        self._lock = FileLock(self.path / LOCK_FILE, blocking=False)

    def open(self, config: Mapping[str, Any]) -> Self:
        """Claim the folder for this process and for this configuration.

        A new or empty folder gets `config.json`. A folder of the same configuration is resumed: `resumed` is
        true, and temporary files of a killed run are removed. Configurations are compared as JSON, so a tuple
        equals a list; a section that only one of them has is no difference, nor is a setting of `UP_TO_ROUNDING`.

        Args:
            config: The resolved configuration, everything that the results depend on.

        Raises:
            RunFolderError: The folder holds a run of another configuration (the message names the keys that
                differ) or files that are no run, another process is using it, or it cannot be written.
        """
        wanted = json.loads(json.dumps(plain(config)))
        file = self.path / CONFIG_FILE
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_other_files()
            self._claim()
        try:
            self.resumed = file.exists()
            do = "restore it, or choose a new folder"  # without it the folder is none of ours
            found = self._agreeing(read_json(file, do), wanted) if self.resumed else {}
            with writing(self.path):
                for leftover in self.path.rglob(".*.tmp"):
                    leftover.unlink()
            if found | wanted != found:
                write_json(file, found | wanted)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Release the folder for other processes. What the run wrote stays."""
        if self._lock.is_locked:
            (self.path / OWNER_FILE).unlink(missing_ok=True)
            self._lock.release()

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
            got = f"a folder with other files in it ({strangers[0]}, {len(strangers)} in all)"
            raise RunFolderError(expected=f"a new, empty or run folder {self.path}", got=got, do="choose a new folder")

    def _claim(self) -> None:
        owner = self.path / OWNER_FILE
        if not self._lock.is_locked:
            try:
                self._lock.acquire()
                owner.write_text(str(os.getpid()))
                return
            except Timeout:
                pass
        process = owner.read_text() if owner.exists() else "unknown"
        expected = f"a run folder {self.path} that nobody is using"
        do = "wait until it ends, or choose another folder"
        raise RunFolderError(expected=expected, got=f"one in use by process {process}", do=do)

    def _agreeing(self, found: object, wanted: dict[str, Any]) -> dict[str, Any]:
        """The folder's configuration, which agrees with `wanted` in every section that both have."""
        if not isinstance(found, dict):
            expected = f"a configuration in {self.path / CONFIG_FILE}"
            raise RunFolderError(expected=expected, got=_short(found), do="delete the folder, or choose a new one")
        shared = [key for key in found if key in wanted and key not in UP_TO_ROUNDING]
        different = differences({key: found[key] for key in shared}, {key: wanted[key] for key in shared})
        if different:
            weights = self.path / WEIGHTS_FILE
            budget = found.get("time_budget")
            seconds = budget.get("seconds") if isinstance(budget, dict) else None
            said = f", --time-budget {seconds:g}s among them," if isinstance(seconds, int | float) else ""
            trained_otherwise = all(key.startswith(("model.training.", "model.epochs")) for key in different)
            raise RunFolderError(
                expected=f"the configuration that made {self.path}",
                got=f"another one: {', '.join(different.values())}",
                do=f"use the old settings{said} to resume it, or "
                + (
                    f"take its classifier to a new folder with --weights {weights}"
                    if trained_otherwise and weights.exists()
                    else "choose a new folder"
                ),
            )
        return found


def differences(found: object, wanted: object, name: str = "") -> dict[str, str]:
    """Each dotted key whose value differs, with a text that has the key and both values."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        key = name or "config"
        if key.rpartition(".")[2] == ANSWERS and _alike(found, wanted):
            return {}
        return {} if found == wanted else {key: f"{key} ({_short(found)} there, {_short(wanted)} here)"}
    texts: dict[str, str] = {}
    for key in dict.fromkeys([*found, *wanted]):
        dotted = f"{name}.{key}" if name else str(key)
        if key not in wanted:
            texts[dotted] = f"{dotted} ({_short(found[key])} there, absent here)"
        elif key not in found:
            texts[dotted] = f"{dotted} (absent there, {_short(wanted[key])} here)"
        else:
            texts |= differences(found[key], wanted[key], dotted)
    return texts


def _alike(found: object, wanted: object) -> bool:
    if not (isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted)):
        return False
    if not all(isinstance(number, (int, float)) for number in found):  # a file of somebody else's
        return False
    half = (len(wanted) + 1) // 2  # one number of each image, then the other
    pairs = [[*zip(found, wanted, strict=True)][part] for part in (slice(half), slice(half, None))]
    scales = [max((abs(b) for _, b in part), default=0.0) for part in pairs]
    return all(abs(a - b) <= 1e-3 * s for part, s in zip(pairs, scales, strict=True) for a, b in part)


def _short(value: object) -> str:
    if value is None:
        return "not said"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
