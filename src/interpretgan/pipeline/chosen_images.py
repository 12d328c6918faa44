"""The images that a user chooses to have explained: test images by number, or files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from interpretgan.data.files import read_images
from interpretgan.errors import ConfigError, LabelError
from interpretgan.pipeline.inputs import Inputs


@dataclass(frozen=True)
class ChosenImages:
    """Test images by number, or files with the names of their classes."""

    indices: tuple[int, ...] = ()
    files: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()  #: Of the files.

    @classmethod
    def parse(cls, images: str, label: str | None) -> Self:
        """What `--images` and `--label` say; a `ConfigError` where they do not belong together."""
        parts = [part.strip() for part in images.split(",") if part.strip()]
        labels = [] if label is None else [part.strip() for part in label.split(",") if part.strip()]
        numbers = [part for part in parts if part.isdecimal()]
        if not parts or (numbers and len(numbers) < len(parts)):
            expected, do = "numbers of test images, or image files, a,b,c", "e.g. --images 0,3,7"
            raise ConfigError(expected=expected, got=f"'{images}'", do=do)
        if numbers:
            if label is not None:
                expected, do = "--label with image files", "leave --label out: test images have their classes"
                raise ConfigError(expected=expected, got="it with numbers of test images", do=do)
            return cls(indices=tuple(map(int, numbers)))
        if len(labels) not in (1, len(parts)):
            do = "say e.g. --label 7, or one for each file: --label 7,4"
            raise ConfigError(expected=f"the true class of {len(parts)} files", got=str(len(labels)), do=do)
        return cls(files=tuple(map(Path, parts)), labels=tuple(labels * (len(parts) if len(labels) == 1 else 1)))

    @property
    def names(self) -> list[str]:
        """Of the images, as headings."""
        return [file.name for file in self.files] or [f"image {index}" for index in self.indices]

    def load(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The images `[N, C, H, W]` within the classifier's bounds, on its device, and their true classes `[N]`."""
        test = inputs.test.scaled(inputs.classifier.bounds)
        if not self.files:
            wrong = [index for index in self.indices if index >= len(test)]
            if wrong:
                expected = f"numbers of test images, 0 to {len(test) - 1}"
                raise ConfigError(expected=expected, got=", ".join(map(str, wrong)), do="choose others")
            return inputs.batch(list(self.indices))
        for label in self.labels:
            if label not in test.classes:
                expected = f"a class among {', '.join(test.classes)}"
                raise LabelError(expected=expected, got=f"'{label}'", do="name one with --label")
        labels = torch.tensor([test.classes.index(label) for label in self.labels])
        return read_images(self.files, test).to(inputs.device), labels.to(inputs.device)
