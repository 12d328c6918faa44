"""Where the runs of a study happen: a process for each, on this machine or on a Ray cluster."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from joblib import cpu_count

from interpretgan.errors import ConfigError
from interpretgan.store.child_processes import THREADS, how_it_ended, last_line
from interpretgan.studies.config import StudyConfig
from interpretgan.studies.job import REFUSED
from interpretgan.studies.progress_table import DONE, FAILED, RUNNING

PASSED_ON = ("INTERPRETGAN_DATA", "INTERPRETGAN_CACHE", "PYTHONPATH", "HF_HUB_OFFLINE")  #: To other machines.

Event = tuple[Path, str, str]
"""Folder of a run, its new state (`RUNNING`, then `DONE` or `FAILED`), and what is to be said of that."""
Executor = Callable[[Sequence[Path]], Iterator[Event]]
"""Makes the runs in these folders, in any order."""


@contextmanager
def executor_for(config: StudyConfig, workers: int | None = None, address: str | None = None) -> Iterator[Executor]:
    """What makes the runs of a study: so many processes at a time on this machine (`None`: one), or a Ray cluster.

    The address of a cluster is as `ray.init` takes it. All of its machines must see the study's folder under the same
    path, and have this package and the data.

    Raises:
        ConfigError: Both are given, no worker, a device that a run would not be given, or a cluster that is not there.
    """
    if address is None:
        if workers is not None and workers < 1:
            raise ConfigError(expected="workers >= 1", got=str(workers), do="try --workers 2")
        yield partial(run_locally, workers=workers or 1, threads=config.threads)
        return
    if workers is not None:
        raise ConfigError(expected="either --workers or --ray", got="both", do="leave one of them out")
    run, gpus, threads = config.cases[0].settings.run, config.gpus, config.threads or 1  # the same device in all cases
    needed = run.devices if run.device.startswith("cuda") else 0
    if (needed > 0) != (gpus > 0) or gpus < needed > 1:
        expected = "gpus > 0 on a Ray cluster where the device is a GPU (one for each of several), else gpus = 0"
        got = f"gpus = {gpus:g}, device = {run.device} and devices = {run.devices}"
        raise ConfigError(expected=expected, got=got, do=f"set device, and gpus = {needed}")
    try:
        ray: Any = import_module("ray")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ModuleNotFoundError as error:
        do = "pip install '.[ray]' in a clone, or use --workers"
        raise ConfigError(expected="the package ray for --ray", got="none", do=do) from error
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        do = "start it with `ray start --head`, or check the address"
        raise ConfigError(expected=f"a Ray cluster at {address}", got=got, do=do) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= gpus for node in nodes):
            text = "no machine of the cluster has %d CPU and %g GPU, which each run asks for: the study waits for one"
            logging.getLogger(__name__).warning(text, threads, gpus)
        yield partial(_run_on_cluster, ray, threads, gpus)
    finally:
        ray.shutdown()


def run_locally(
    folders: Sequence[Path],
    workers: int,
    threads: int | None,
    variables: Mapping[str, str] = os.environ,
    place: str = ".",
) -> Iterator[Event]:
    """Make runs in processes on this machine. One that dies is started once more, and costs its run alone.

    So many `workers` run at a time, each with so many `threads` (`None`: cores / workers), with these `variables` as
    their environment, in the folder `place`.
    """
    limits = dict.fromkeys(THREADS, str(threads or max(1, cpu_count() // workers)))
    # Threads that spin while they wait would take the cores from other workers.
    environment = {**variables, **limits, "OMP_WAIT_POLICY": "PASSIVE"}
    waiting = [(folder, "") for folder in folders]
    running: list[tuple[Path, str, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                folder, died = waiting.pop(0)
                yield folder, RUNNING, died
                try:
                    running.append((folder, died, _start(folder, env=environment, cwd=place)))
                except OSError as error:  # a full disk, no more processes: it costs this run
                    yield folder, FAILED, f"its process could not be started: {error}"
            time.sleep(0.05)
            over = [run for run in running if run[2].poll() is not None]
            running = [run for run in running if run not in over]
            for folder, died, process in over:
                status, log = process.returncode, folder / "log.txt"
                if status in (0, REFUSED):
                    yield folder, FAILED if status else DONE, last_line(log) * (status == REFUSED)
                elif died:
                    yield folder, FAILED, f"its process died, {how_it_ended(status, log)}"
                else:
                    waiting.insert(0, (folder, f"again, for its process died, {how_it_ended(status, log)}"))
    finally:
        for _, _, process in running:
            process.terminate()
        for _, _, process in running:
            process.wait()


def _start(folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "interpretgan.studies.job", str(folder), str(os.getpid())]
    options |= {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with (folder / "log.txt").open("ab") as log:  # Ctrl-C is for the study, which ends its workers by itself
        return subprocess.Popen(command, stdout=log, start_new_session=True, **options)


def _run_on_cluster(ray: Any, threads: int, gpus: float, folders: Sequence[Path]) -> Iterator[Event]:
    """Make runs in tasks of Ray, each of which starts a process and waits for it."""

    def make(folder: Path, variables: Mapping[str, str], place: str) -> Event:
        return list(run_locally([folder], 1, threads, {**os.environ, **variables}, place))[-1]

    task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=1)(make)
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    waiting = {task.remote(folder.resolve(), variables, str(Path.cwd())): folder for folder in folders}
    yield from ((folder, RUNNING, "") for folder in folders)
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        folder = waiting.pop(done)
        try:
            yield folder, *ray.get(done)[1:]
        except ray.exceptions.RayError as error:
            yield folder, FAILED, f"its task died ({type(error).__name__})"
