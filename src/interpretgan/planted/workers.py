"""Processes that make the records of a benchmark, each with one thread and what a network's plants share in memory."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from interpretgan.errors import ConfigError
from interpretgan.store.child_processes import THREADS, end_with_parent, how_it_ended

COMMAND = (sys.executable, "-m", "interpretgan.planted.workers")
Task = Callable[[str], list[str]]
"""Does one piece of work by its name, and returns the lines that are to be said of it."""
Event = tuple[str, list[str], bool]
"""Name of a piece of work, the lines that are to be said, and whether it was done."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch inside, as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_processes(names: Sequence[str], workers: int, folder: Path, command: Sequence[str] = COMMAND) -> Iterator[Event]:
    """Do pieces of work in so many processes. One that dies is started again, and costs the work that it had.

    Each process is told the folder, then reads names of work, a line each, and answers with a line of JSON: what is to
    be said. What it writes to stderr goes to `worker-N.log` in the folder.
    """
    if workers < 1:
        raise ConfigError(expected="workers >= 1", got=str(workers), do="try --workers 2")
    # Neighbours, which share a network, go to one process.
    size = max(1, min(4, -(-len(names) // (2 * workers))))
    waiting: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()
    for first in range(0, len(names), size):
        waiting.put(names[first : first + size])
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    running: dict[int, subprocess.Popen[str]] = {}
    over, starting = threading.Event(), threading.Lock()

    def started(number: int, log: Path) -> subprocess.Popen[str] | None:
        with starting:  # one that starts while all others are ended would never be
            if over.is_set():
                return None
            if number not in running:
                running[number] = _start([*command, str(folder), str(os.getpid())], log)
            return running[number]

    def serve(number: int) -> None:
        log = folder / f"worker-{number}.log"
        while not over.is_set():
            try:
                batch = waiting.get_nowait()
            except queue.Empty:
                return
            for name in batch:
                try:
                    process = started(number, log)
                except OSError as error:  # a full disk, no more processes: it costs this network
                    events.put((name, [f"{name}: its process could not be started: {error}"], False))
                    continue
                if process is None:
                    return
                answer = _asked(process, name, log)
                if not answer[2]:
                    _ended(running.pop(number))
                events.put(answer)

    threads = [threading.Thread(target=serve, args=(number,), daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for _ in names:
            yield events.get()
    finally:
        with starting:
            over.set()
            for process in list(running.values()):
                process.terminate()
        for thread in threads:
            thread.join()
        for process in running.values():
            _ended(process)


def _asked(process: subprocess.Popen[str], name: str, log: Path) -> Event:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError, ValueError):  # its end is noticed below
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        if line := process.stdout.readline():
            return name, json.loads(line), True
    return name, [f"{name}: its process died, {how_it_ended(process.wait(), log)}"], False


def _ended(process: subprocess.Popen[str]) -> None:
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            if stream is not None:
                stream.close()


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    with log.open("ab") as stderr:  # Ctrl-C is for the benchmark, which ends its workers by itself
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip


def serve(task: Task, answers: Callable[[str], object]) -> None:
    """Do the work whose names come in on stdin, in one thread."""
    with one_thread():
        for line in sys.stdin:
            answers(json.dumps(task(line.rstrip("\n"))))


def main(folder: str, parent: str) -> None:
    """A worker: what it prints by accident goes to its log, as its stdout is for answers."""
    from interpretgan.planted.benchmark import worker_task

    end_with_parent(int(parent))
    stdout, sys.stdout = sys.stdout, sys.stderr
    serve(worker_task(Path(folder)), lambda line: (stdout.write(f"{line}\n"), stdout.flush()))


if __name__ == "__main__":
    main(*sys.argv[1:])
