"""Where a job works: its settings, its images, its device, and its run folder with what each stage takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.data import ImageSet, load_data
from interpretgan.errors import ConfigError
from interpretgan.models import build_model
from interpretgan.pipeline.config import Settings
from interpretgan.pipeline.run_folder import RunFolder
from interpretgan.store.metrics import MetricsLog
from interpretgan.store.progress import Progress, stage_seconds

SHOWN_METRICS = ("loss", "accuracy", "loss_d", "information", "latent")
"""Metrics of a training that its progress line has."""

Say = Callable[[str], None]


class Workshop:
    """What every part of a job shares.

    Args:
        settings: What is wanted.
        say: Told in a line what happens.

    Attributes:
        device: Where networks run.
        seconds: What each stage took.
        folder: The run folder; `None` until it is opened, as long as something is checked.

    Raises:
        ConfigError: No such device.
    """

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings, self.say = settings, say
        self.device = find_device(settings.run.device)
        self.seconds: dict[str, float] = {}
        self.folder: RunFolder | None = None

    # --- images ----------------------------------------------------------------------------------------------

    @cached_property
    def train(self) -> ImageSet:
        """Training images."""
        return self._load("train")

    @cached_property
    def test(self) -> ImageSet:
        """Held-out images."""
        return self._load("test")

    def _load(self, split: str) -> ImageSet:
        options = self.settings.data
        with stage_seconds(self.seconds, "data"):
            return load_data(options.data, split, data_dir=options.data_dir, image_size=options.image_size)

    @property
    def data_name(self) -> str:
        """Name of the data, of a folder its last part."""
        name = self.settings.data.data
        return Path(name).name if "/" in name else name

    @property
    def data_info(self) -> dict[str, Any]:
        """What the test images are, for a result."""
        test = self.test
        return {
            "name": self.data_name, "split": "test", "classes": list(test.classes), "sha256": test.sha256,
            "note": test.note,
        }  # fmt: skip

    def batch(self, indices: range | list[int]) -> tuple[Tensor, Tensor]:
        """Test images and their classes, on the device."""
        images, labels = self.test.batch(torch.tensor(list(indices)))
        return images.to(self.device), labels.to(self.device)

    @property
    def probe(self) -> Tensor:
        """A few images to run networks on."""
        return self.batch(range(min(4, len(self.test))))[0]

    def build(self, name: str, seed: int, *, pool: str | None = None, width: float = 1.0) -> nn.Module:
        """A network for the images, its weights drawn from the seed; see `build_model`."""
        data = self.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(
                name,
                in_channels=data.shape[0],
                num_classes=len(data.classes),
                image_size=data.shape[1:],
                pool=pool,
                width=width,
            )

    # --- the run folder --------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """A file of the run folder.

        Raises:
            ConfigError: There is none.
        """
        if self.folder is None:
            raise ConfigError(expected="a run folder", got="none", do="name one with --out")
        return self.folder / name

    def drop(self, name: str) -> None:
        """Remove a file of the run folder, if it is there."""
        self.path(name).unlink(missing_ok=True)

    @contextmanager
    def stage(self, name: str, label: str, total: int | None = None) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A training: announced, timed, its metrics logged and its progress shown."""
        self.say(label)
        log: MetricsLog | None = None
        progress: Progress | None = None

        def record(values: dict[str, Any]) -> None:
            nonlocal log, progress
            values = dict(values)
            step, steps = int(values.pop("step")), int(values.pop("steps"))
            if log is None:
                log = MetricsLog(self.path(f"metrics-{name}.jsonl"), from_step=step)
                progress = Progress(total or steps, name, start=step - 1)
            assert progress is not None
            log.write(step, **values)
            progress.update(
                step, "  ".join(f"{key} {value:.3g}" for key, value in values.items() if key in SHOWN_METRICS)
            )

        try:
            with stage_seconds(self.seconds, name):
                yield record
        finally:
            if log is not None and progress is not None:
                log.close()
                progress.close()


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        ConfigError: No such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            expected="a device of this machine",
            got=f"{name} ({str(error).splitlines()[0]})",
            do="use --device cpu or auto",
        ) from error
    return device
