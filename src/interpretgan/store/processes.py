"""Processes that this one starts: what they said last, and that they end when it does."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path


def end_with_parent() -> None:
    """End this process when the one that started it is gone: its end of our standard input is closed then."""

    def wait() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock would be in the way when the interpreter ends
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def how_it_ended(status: int, log: Path) -> str:
    """An exit status in words, with the last line that the process wrote.

    Args:
        status: Of the process, as `subprocess` gives it: negative for a signal.
        log: What the process wrote.
    """
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}: {last_line(log)}"


def last_line(log: Path) -> str:
    """The last line of a file that is not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word")
