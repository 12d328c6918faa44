"""Small networks with the habits that trip tools which hook into models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReusedReLU(nn.Module):
    """The acceptance model: one in-place ReLU module called six times, as in TRADES' network for MNIST."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(1, 4, 3), relu1=relu, conv2=nn.Conv2d(4, 5, 3), relu2=relu, pool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(5, 6, 3), relu3=relu, conv4=nn.Conv2d(6, 7, 3), relu4=relu, pool2=nn.MaxPool2d(2),
            )
        )  # fmt: skip
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(7 * 16, 20), relu1=relu, drop=nn.Dropout(), fc2=nn.Linear(20, 15), relu2=relu,
                fc3=nn.Linear(15, 10),
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class Functional(nn.Module):
    """Activations and pooling are functions, invisible as modules; declared out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(12, 5)
        self.fc1 = nn.Linear(6 * 11 * 13, 12)
        self.conv = nn.Conv2d(2, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1)))
        return F.log_softmax(self.fc2(x), dim=1)


class Block(nn.Module):
    """Residual block with BatchNorm, and one in-place ReLU called twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return out


class Residual(nn.Module):
    """A stem, two blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(4, 4), Block(4, 6))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(self.blocks(self.stem(x)).mean(dim=(2, 3))))
        return logits


class Tiny(nn.Module):
    """Cheap to train: for the digits and for shapes whose sizes all differ."""

    def __init__(self, channels: int = 1, size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 5, stride=2, padding=2)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        flat = 8 * ((size[0] + 1) // 2 // 2) * ((size[1] + 1) // 2 // 2)
        self.fc1 = nn.Linear(flat, 32)
        self.relu2 = nn.ReLU()
        self.fc2 = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(self.relu2(self.fc1(self.pool(self.relu(self.conv(x))).flatten(1))))
        return logits


class Careless(nn.Module):
    """Changes a buffer and draws random numbers in every pass, also in eval mode."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(9, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(3)
        if self.fail:
            raise RuntimeError("inside the model")
        logits: Tensor = self.fc(x.flatten(1))
        return logits


class Answers(nn.Module):
    """A model whose output is no row of logits."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net = Tiny()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(self.net(x))


def probabilities() -> nn.Module:
    return Answers(lambda logits: logits.softmax(dim=1))


def pair() -> nn.Module:
    return Answers(lambda logits: (logits, logits))


def one_number() -> nn.Module:
    return Answers(lambda logits: logits[:, 0])


def detached() -> nn.Module:
    return Answers(lambda logits: logits.detach())


def integers() -> nn.Module:
    return Answers(lambda logits: (100 * logits).long())


def complex_numbers() -> nn.Module:
    return Answers(lambda logits: torch.complex(logits, logits))


def without_values() -> nn.Module:
    return Answers(lambda logits: logits).to("meta")


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(12), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10))


def lazy_and_wrong() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 99), nn.Flatten(), nn.LazyLinear(10))
