"""Where the runs of a study happen: a process for each, on this machine or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from interpretgan.errors import ConfigError
from interpretgan.store.processes import how_it_ended, last_line
from interpretgan.studies.worker import REFUSED

ATTEMPTS = 2
PASSED_ON = ("INTERPRETGAN_DATA", "INTERPRETGAN_CACHE", "PYTHONPATH", "HF_HUB_OFFLINE")
"""Variables of the environment that a worker on another machine is given as well."""

OnStart = Callable[[str], None]
Processes: TypeAlias = set[subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        error: Why there is no result, in a line. `None`: there is one, in the run's folder.
        attempts: Processes that were started for it.
    """

    error: str | None
    attempts: int


Executor = Callable[[Sequence[Path], OnStart], Iterator[tuple[Path, Outcome]]]
"""Makes the runs in these folders, in any order; tells the name of a folder when its run begins."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(workers: int) -> int:
    """Cores / workers, at least one."""
    return max(1, cores() // workers)


class LocalProcesses:
    """Runs in processes of their own on this machine, so that the death of one costs its run alone.

    Args:
        workers: How many at a time.
        threads: Of each. `None`: cores / workers.

    Raises:
        ConfigError: No worker at all.
    """

    def __init__(self, workers: int, threads: int | None = None) -> None:
        if workers < 1:
            raise ConfigError(expected="workers >= 1", got=str(workers), do="try --workers 2")
        self.workers = workers
        self.threads = threads_per_worker(workers) if threads is None else threads

    def __call__(self, folders: Sequence[Path], on_start: OnStart) -> Iterator[tuple[Path, Outcome]]:
        """See `Executor`."""
        environment, alive, stopping = worker_environment(self.threads), Processes(), threading.Event()

        def make(folder: Path) -> Outcome:
            on_start(folder.name)
            try:
                return run_process(folder, environment, alive, stopping)
            except OSError as error:  # a full disk, no more processes: it costs this run
                return Outcome(f"its process could not be run: {error}", 1)

        pool = ThreadPoolExecutor(self.workers)
        try:
            waiting = {pool.submit(make, folder): folder for folder in folders}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            while alive:
                for process in list(alive):
                    process.terminate()
                time.sleep(0.05)
            pool.shutdown()


class RayCluster:
    """Runs on a Ray cluster, each in a process of its own that a task starts and waits for.

    The machines must see the study's folder under the same path, and have this package and the data.

    Args:
        address: Of the cluster as `ray.init` takes it, e.g. `auto`, `10.0.0.1:6379`, `ray://10.0.0.1:10001`; `local`
            starts one on this machine.
        threads: Of each run; as many cores are asked for. `None`: one.
        gpus: How much of a GPU each run is given. 0: none, whatever the cluster has.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str, threads: int | None = None, gpus: float = 0) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ConfigError(
                expected="the package ray for --ray", got="none", do="pip install 'interpretgan[ray]', or use --workers"
            ) from error
        self.threads = 1 if threads is None else threads
        self.gpus = gpus
        self._ray: Any = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ConfigError(
                expected=f"a Ray cluster at {address}",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                do="start it with `ray start --head`, or check the address",
            ) from error
        asked = {"CPU": self.threads, "GPU": gpus}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            logging.getLogger(__name__).warning(
                "no machine of the cluster has %d CPU and %g GPU, which each run asks for: the study waits until one "
                "joins (or lower threads or gpus)", self.threads, gpus,
            )  # fmt: skip

    def __call__(self, folders: Sequence[Path], on_start: OnStart) -> Iterator[tuple[Path, Outcome]]:
        """See `Executor`."""
        ray = self._ray
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= thread_settings(self.threads)
        task = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=ATTEMPTS - 1)(run_on_cluster)
        waiting = {task.remote(str(folder.resolve()), environment, str(Path.cwd())): folder for folder in folders}
        for folder in folders:
            on_start(folder.name)
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            folder = waiting.pop(done)
            try:
                error, attempts = ray.get(done)
                yield folder, Outcome(error, attempts)
            except ray.exceptions.RayError as error:
                yield folder, Outcome(f"its task died ({type(error).__name__})", ATTEMPTS)

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


def run_on_cluster(folder: str, environment: Mapping[str, str], place: str) -> tuple[str | None, int]:
    """`run_process` as a Ray task, in the folder that the study was started in: error and attempts."""
    try:
        outcome = run_process(Path(folder), {**os.environ, **environment}, Processes(), threading.Event(), place)
    except OSError as error:
        return f"its process could not be run: {error}", 1
    return outcome.error, outcome.attempts


def thread_settings(threads: int) -> dict[str, str]:
    """The environment that holds a process to so many threads, which do not spin while they wait."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker on this machine."""
    return {**os.environ, **thread_settings(threads)}


def run_process(
    folder: Path, environment: Mapping[str, str], alive: Processes, stopping: threading.Event, place: str | None = None
) -> Outcome:
    """Make the run of a folder in a process, and once more if that process dies.

    Args:
        folder: It has `spec.json`; the process writes `result.json`, and says in `log.txt` what it does.
        environment: Of the process.
        alive: Holds the process while it runs, so that it can be ended.
        stopping: Set when no process is to be started any more.
        place: Folder that it works in, which relative paths begin at. `None`: that of this process.
    """
    error = ""
    for attempt in range(1, ATTEMPTS + 1):
        if stopping.is_set():
            return Outcome(error or "not started", attempt - 1)
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "interpretgan.studies.worker", str(folder)],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends: the worker then ends too
                stdout=log,
                stderr=log,
                env=dict(environment),
                cwd=place,
                start_new_session=True,  # Ctrl-C is for the study, which ends its workers by itself
            )
            alive.add(process)
            if stopping.is_set():  # since it was asked above
                process.terminate()
            try:
                (folder / "pid").write_text(f"{process.pid}\n")
                status = process.wait()
            finally:
                alive.discard(process)
                assert process.stdin is not None
                process.stdin.close()
                (folder / "pid").unlink(missing_ok=True)
        if status == 0:
            return Outcome(None, attempt)
        if status == REFUSED:
            return Outcome(last_line(folder / "log.txt"), attempt)
        error = f"its process died, {how_it_ended(status, folder / 'log.txt')}"
    return Outcome(error, attempt)
