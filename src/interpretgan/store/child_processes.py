"""Processes that this one starts: what they said last, and that they end when it does."""

import os
import signal
import threading
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables of the environment that say how many threads the arithmetic of a process may take."""


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended; `parent` is its process number."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def how_it_ended(status: int, log: Path) -> str:
    """An exit status of `subprocess` in words, with the last line that the process wrote to its log."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}: {last_line(log)}"


def last_line(log: Path) -> str:
    """The last line of a file that is not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word")
