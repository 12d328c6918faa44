from __future__ import annotations

from typing import Any

import pytest

from interpretgan.errors import ConfigError
from interpretgan.gan.train import GANConfig
from interpretgan.information import InformationConfig
from interpretgan.training import Recipe

OUT_OF_RANGE: list[tuple[type[Any], dict[str, Any]]] = [
    (Recipe, {"epochs": 0}), (Recipe, {"batch_size": 0}), (Recipe, {"lr": 0.0}), (Recipe, {"lr": float("nan")}),
    (Recipe, {"weight_decay": -1.0}), (Recipe, {"averaging": 1.0}), (Recipe, {"schedule": "cosine"}),
    (Recipe, {"augmentation": "mixup"}), (Recipe, {"optimizer": "adam"}), (Recipe, {"validation": -1}),
    (GANConfig, {"steps": 0}), (GANConfig, {"latent": -1.0}), (GANConfig, {"recognition_noise": -0.1}),
    (GANConfig, {"learning_rate": 0.0}), (GANConfig, {"ema": 1.0}), (GANConfig, {"information": float("inf")}),
    (InformationConfig, {"steps": 0}), (InformationConfig, {"probe_rate": 0.0}),
    (InformationConfig, {"weight_decay": -1.0}), (InformationConfig, {"ema": 1.0}),
    (GANConfig, {"discriminator_rate": 0.0}), (GANConfig, {"momentum": 1.0}), (GANConfig, {"momentum": "0.5"}),
    (GANConfig, {"steps": 2.5}), (GANConfig, {"steps": "3"}), (Recipe, {"batch_size": 7.5}),
    (Recipe, {"epochs": True}), (GANConfig, {"image_noise": True}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), OUT_OF_RANGE, ids=str)
def test_settings_out_of_range_are_refused_by_name(kind: type[Any], settings: dict[str, Any]) -> None:
    needed = {"epochs": 1, "batch_size": 1, "lr": 0.1} if kind is Recipe else {}
    ((name, value),) = settings.items()
    with pytest.raises(ConfigError, match=rf"expected {name} .*, got {value!r}"):
        kind(**(needed | settings))
