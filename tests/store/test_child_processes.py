from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from interpretgan.store.child_processes import how_it_ended

WATCH = "from interpretgan.store.child_processes import end_with_parent; end_with_parent(os.getppid())"
CHILD = f"import os, time; {WATCH}; time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}]).wait()"


def test_a_process_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    try:
        parent.communicate(timeout=1)
    except subprocess.TimeoutExpired:
        parent.kill()
    parent.communicate(timeout=20)  # reads until nobody holds the other end of the pipe: the child is gone


def test_how_a_process_ended_is_told_with_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\nValueError: x\n\n")
    assert how_it_ended(1, log) == "exit status 1: ValueError: x"
    assert how_it_ended(-9, log) == "killed by SIGKILL"
