"""The images that a user chooses to have explained: test images by number, or files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data.decoding import decode_files
from interpretgan.errors import ConfigError, LabelError, LayerError
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.numbers import parse_names


@dataclass(frozen=True)
class ChosenImages:
    """Test images by number, or files with the names of their classes."""

    indices: tuple[int, ...] = ()
    files: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()  #: Of the files.
    layer: str | None = None  #: That is looked at closely.
    towards: str | None = None  #: Name of the class that ways are drawn towards.

    @classmethod
    def parse(cls, images: str, label: str | None, layer: str | None, towards: str | None) -> Self:
        """What `--images`, `--label`, `--at` and `--towards` say; a `ConfigError` where the first two do not fit."""
        parts = parse_names(images)
        labels = parse_names(label or "")
        numbers = [part for part in parts if part.removeprefix("-").isdecimal()]
        other_numbers = any(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", part) for part in parts if part not in numbers)
        if not parts or other_numbers or (numbers and len(numbers) < len(parts)):
            expected, do = "numbers of test images, or image files, a,b,c", "e.g. --images 0,3,7"
            raise ConfigError(expected=expected, got=f"'{images}'", do=do)
        if numbers:
            if label is not None:
                expected, do = "--label with image files", "leave --label out: test images have their classes"
                raise ConfigError(expected=expected, got="it with numbers of test images", do=do)
            return cls(indices=tuple(dict.fromkeys(map(int, numbers))), layer=layer, towards=towards)
        if len(labels) not in (1, len(parts)):
            do = "say e.g. --label 7, or one for each file: --label 7,4"
            raise ConfigError(
                expected=f"the true class of {len(parts)} file{'s' if parts[1:] else ''}", got=str(len(labels)), do=do
            )
        labels = labels * (len(parts) if len(labels) == 1 else 1)
        return cls(files=tuple(map(Path, parts)), labels=tuple(labels), layer=layer, towards=towards)

    @property
    def names(self) -> list[str]:
        """Of the images, as headings."""
        return [file.name for file in self.files] or [f"image {index}" for index in self.indices]

    def check(self, inputs: Inputs) -> None:
        """Refuse images that cannot be read or do not exist, a layer that is not explained, a class that one has."""
        images, labels = self.load(inputs)
        has = [name for name, label in zip(self.names, labels.tolist(), strict=True) if label == self.target(inputs)]
        if has:
            got = f"'{self.towards}', which is that of {', '.join(has)}"
            raise LabelError(expected="another class than the images have", got=got, do="name one with --towards")
        if inputs.is_trained:
            self.unseen(inputs, inputs.classifier, images)
        given = inputs.adversarial
        if given is not None and self.indices and max(self.indices) >= len(given):
            expected, got = f"images with adversarial ones, 0 to {len(given) - 1}", str(max(self.indices))
            raise ConfigError(expected=expected, got=got, do="choose others")
        if self.layer is not None:
            named = inputs.anatomy(inputs.classifier).select([self.layer])[0]
            explained = [layer.name for layer in inputs.layers(inputs.classifier)]
            if named.name not in explained and named.same_as in explained:
                expected, got = "one name for each tensor", f"'{named.name}', which only repeats '{named.same_as}'"
                raise LayerError(expected=expected, got=got, do=f"say --at {named.same_as}")
            if named.name not in explained:
                expected = f"one of the layers that are explained, {', '.join(explained)}"
                raise LayerError(expected=expected, got=f"'{named.name}'", do="choose one of them with --at")

    def target(self, inputs: Inputs) -> int | None:
        """The number of the class that ways are drawn towards."""
        return None if self.towards is None else _number(self.towards, inputs.test.classes, "--towards")

    def unseen(self, inputs: Inputs, classifier: Classifier, images: Tensor) -> int | None:
        """The class that ways are drawn towards; a `LabelError` where the network takes an image for it already."""
        target = self.target(inputs)
        seen = [] if target is None else (classifier.logits(images).argmax(dim=1) == target).tolist()
        if any(seen):
            names = ", ".join(name for name, sees in zip(self.names, seen, strict=True) if sees)
            got, do = (
                f"'{self.towards}', which it sees in {names}",
                "leave these out of --images, or name another class",
            )
            raise LabelError(expected="a class that the network does not see yet", got=got, do=do)
        return target

    def load(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The images `[N, C, H, W]` within the classifier's bounds, on its device, and their true classes `[N]`."""
        test = inputs.test.scaled(inputs.classifier.bounds)
        if not self.files:
            wrong = [index for index in self.indices if not 0 <= index < len(test)]
            if wrong:
                expected = f"numbers of test images, 0 to {len(test) - 1}"
                raise ConfigError(expected=expected, got=", ".join(map(str, wrong)), do="choose others")
            return inputs.batch(list(self.indices))
        labels = torch.tensor([_number(label, test.classes, "--label") for label in self.labels])
        return decode_files(self.files, test.shape, test.bounds).to(inputs.device), labels.to(inputs.device)


def _number(name: str, classes: Sequence[str], option: str) -> int:
    """The number of a class by its name, or a `LabelError`."""
    if name not in classes:
        expected = f"a class among {', '.join(classes)}"
        raise LabelError(expected=expected, got=f"'{name}'", do=f"name one with {option}")
    return classes.index(name)
