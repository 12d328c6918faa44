from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks.noise import varied_noise
from interpretgan.classifier import Classifier
from interpretgan.data import TensorImages, load_data
from interpretgan.errors import ConfigError, RunFolderError, TrainingError
from interpretgan.gan import train as gan
from interpretgan.gan.generator import Generator
from interpretgan.gan.image_noise import with_noise
from interpretgan.gan.train import GANConfig, limited, train_generator
from interpretgan.layers import capture, examine
from tests.networks import Tiny

CONFIG = GANConfig(steps=6, images_per_layer=3, width=16, blocks=1, noise=4, precision="fp32")


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny().train(), mean=(0.2,), std=(0.3,))


def train(classifier: Classifier, config: GANConfig = CONFIG, **more: object) -> Generator:
    digits = load_data("digits", "train")
    layers = examine(classifier, digits.batch([0, 1, 2])[0]).distinct
    return train_generator(classifier, layers, digits, config, seed=1, **more)  # type: ignore[arg-type]  # passed on


def same(one: Generator, other: Generator) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_resumed_training_ends_where_an_unbroken_one_does(classifier: Classifier, tmp_path: Path) -> None:
    unbroken = train(classifier)

    class Killed(BaseException):
        pass

    def kill(step: int, _losses: dict[str, float]) -> None:
        if step == 4:
            raise Killed

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        train(classifier, checkpoint=checkpoint, checkpoint_seconds=0.0, on_step=kill)
    steps: list[int] = []
    resumed = train(classifier, checkpoint=checkpoint, on_step=lambda step, _: steps.append(step))
    assert steps == [4, 5, 6]  # the fourth had not been saved
    assert same(resumed, unbroken)
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    with pytest.raises(RunFolderError, match="a checkpoint of the same work"):
        train(other, checkpoint=checkpoint)


def test_a_checkpoint_of_another_generator_is_refused(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that an earlier version of this package left."""
    settings: dict[str, Any] = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    with monkeypatch.context() as before:
        before.setattr(gan, "Generator", lambda *given, **named: Generator(*given, **named | {"look_again": False}))
        train(classifier, **settings)
    with pytest.raises(RunFolderError, match="of another model, data set, setting or version"):
        train(classifier, **settings)


def test_a_checkpoint_on_other_tensors_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    images = torch.rand(8, 1, 28, 28)
    layers = examine(classifier, images[:3]).distinct
    checkpoint = tmp_path / "checkpoint.pt"

    def fit(source: Tensor) -> None:
        train_generator(
            classifier, layers, TensorImages(source), CONFIG, seed=1, checkpoint=checkpoint, checkpoint_seconds=0.0
        )

    fit(images)
    with pytest.raises(RunFolderError, match="of another model, data set, setting or version"):
        fit(1 - images)


def test_one_seed_one_generator(classifier: Classifier) -> None:
    state = torch.get_rng_state()
    first = train(classifier)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert same(first, train(classifier))


def test_another_recognition_network_reads_in_place_of_the_classifier(classifier: Classifier) -> None:
    torch.manual_seed(1)
    other = Classifier(Tiny().train(), mean=(0.2,), std=(0.3,))
    before = other.state_sha256()
    plain = train(classifier)
    settings = CONFIG.resolved(False, channels=1)
    assert same(plain, train(classifier, settings, recognition_network=classifier))
    assert not same(plain, train(classifier, recognition_network=other))
    assert other.state_sha256() == before
    assert all(p.requires_grad and p.grad is None for p in other.model.parameters())
    with pytest.raises(ConfigError, match=r"and pixels within \[0.0, 1.0\], got one for"):
        train(classifier, recognition_network=Classifier(Tiny(), bounds=(-1.0, 1.0)))


def test_the_classifier_is_only_borrowed(classifier: Classifier) -> None:
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    train(classifier)
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())
    assert all(module.training and not module._forward_hooks for module in classifier.model.modules())


def test_training_lowers_both_terms_that_need_no_opponent(classifier: Classifier) -> None:
    losses: list[dict[str, float]] = []
    config = GANConfig(steps=40, images_per_layer=8, width=24, blocks=1, precision="fp32", linear_start=False)
    train(classifier, config, on_step=lambda _, values: losses.append(values))
    first, last = losses[0], losses[-1]
    assert set(first) == {"loss_d", "loss_g", "realism", "information", "latent"}
    assert last["latent"] < 0.5 * first["latent"]
    assert last["information"] > first["information"]


def test_linear_decodings_are_where_a_training_starts(classifier: Classifier) -> None:
    first: list[dict[str, float]] = []
    for linear_start in (False, True):
        config = replace(CONFIG, steps=1, linear_start=linear_start)
        train(classifier, config, on_step=lambda _, losses: first.append(losses))
    assert first[1]["latent"] < 0.5 * first[0]["latent"]


class Steep(nn.Module):
    """A network that answers to the least grey in a corner, which is black in natural digits, with huge logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, :, :3, :3].mean(dim=(1, 2, 3))
        logits: Tensor = self.net(images) + 1e6 * corner[:, None] * torch.arange(10.0)
        return logits


COLLAPSING = GANConfig(
    steps=60, images_per_layer=4, width=16, blocks=1, noise=4, precision="fp32", linear_start=False,
    gradient_limit=1e12, learning_rate=0.02,
)  # fmt: skip


def test_a_training_that_collapses_twice_is_refused(tmp_path: Path) -> None:
    """Without its start and without a limit the classifier's gradient drowns the discriminator's."""
    torch.manual_seed(0)
    steps: list[int] = []
    with pytest.raises(TrainingError, match="one picture for all after 40 steps, and with a stricter limit"):
        train(
            Classifier(Steep()), COLLAPSING, checkpoint=tmp_path / "checkpoint.pt", on_step=lambda s, _: steps.append(s)
        )
    assert steps.count(1) == 2


def test_an_interruption_forgets_no_collapse(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier, steps = Classifier(Steep()), list[int]()
    settings: dict[str, Any] = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}

    def stop(step: int, _losses: dict[str, float]) -> None:
        if step == 31:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(classifier, COLLAPSING, on_step=stop, **settings)
    with pytest.raises(TrainingError, match="one picture for all"):
        train(classifier, COLLAPSING, on_step=lambda step, _: steps.append(step), **settings)
    assert steps[:10] == [*range(31, 40), 1]  # one picture at 20 and at 40: then it is tried again


def test_a_training_that_collapses_once_is_one_with_a_stricter_limit(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = replace(CONFIG, steps=42), tmp_path / "checkpoint.pt"
    stricter = train(classifier, replace(config, gradient_limit=config.gradient_limit / gan.STRICTER))
    found = iter([True, True, False, False])
    monkeypatch.setattr("interpretgan.gan.collapse.one_picture", lambda *_: next(found))
    retried = train(classifier, config, checkpoint=checkpoint, checkpoint_seconds=0.0)
    assert same(retried, stricter)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_only_gradients_that_stand_out_are_limited() -> None:
    gradient = torch.tensor([3.0, -0.5, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert torch.allclose(limited(gradient, torch.tensor(2.0)).flatten(1).norm(dim=1), torch.tensor([2.0, 1.0, 0.0]))
    assert torch.equal(limited(gradient, torch.tensor(0.0)), gradient)


def test_a_loss_that_leaves_the_numbers_stops_the_training(classifier: Classifier, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=30, learning_rate=1e30, discriminator_rate=1e30)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(classifier, config)


def test_a_recognition_network_decides_the_defaults_in_one_place(classifier: Classifier) -> None:
    grey: dict[str, Any] = {"steps": 300, "discriminator_rate": 1e-3}
    assert GANConfig().resolved(False, 1) == GANConfig(latent=10.0, recognition_noise=0.2, **grey)
    assert GANConfig().resolved(True, 1) == GANConfig(latent=2.0, recognition_noise=0.05, **grey)
    colour: dict[str, Any] = {"steps": 1200, "discriminator_rate": 2e-4}
    assert GANConfig().resolved(True, 3) == GANConfig(latent=2.0, recognition_noise=0.05, **colour)
    stated = GANConfig(latent=0.0, recognition_noise=0.0, steps=7, discriminator_rate=0.1, image_noise=0.1)
    assert stated.resolved(True, 3) == stated.resolved(False, 1) == stated
    torch.manual_seed(1)
    other = Classifier(Tiny(), mean=(0.2,), std=(0.3,))
    for recognition_network in (None, other):
        plain, filled = (
            train(classifier, config, recognition_network=recognition_network)
            for config in (CONFIG, CONFIG.resolved(recognition_network is not None, 1))
        )
        assert same(plain, filled)


def test_latents_of_noisy_images_are_explained_as_the_images(classifier: Classifier) -> None:
    images, _ = load_data("digits", "test").batch(range(200))
    layers = examine(classifier, images[:3]).distinct
    noise = varied_noise(images.shape, 0.3, random=torch.Generator().manual_seed(0))
    _, latents = capture(classifier, with_noise(classifier, images, noise), layers)
    errors = []
    for size in (0.0, 0.3):
        generator = train(classifier, replace(CONFIG, image_noise=size))
        drawn = generator([latents[layer.name] for layer in layers], torch.zeros(len(layers) * 200, CONFIG.noise))
        errors.append((drawn.view(len(layers), *images.shape) - images).square().mean(dim=(1, 2, 3, 4)))
    plain, noisy = errors
    assert (noisy < plain).all()
    assert (noisy[1:3] < 0.7 * plain[1:3]).all()


def test_each_step_draws_from_latents_of_noisy_images(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    given: list[Tensor] = []
    noise: list[Tensor] = []

    class Remembered(TensorImages):
        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            images, labels = super().batch(indices)
            drawn.append(images)
            return images, labels

    def remembered(*arguments: Any, **more: Any) -> Tensor:
        noise.append(varied_noise(*arguments, **more))
        return noise[-1]

    def first_latents(_generator: nn.Module, arguments: tuple[list[Tensor], Tensor]) -> None:
        given.append(arguments[0][1])

    monkeypatch.setattr(gan, "varied_noise", remembered)
    digits, _ = load_data("digits", "train").batch(range(500))
    layers, count = examine(classifier, digits[:3]).distinct, CONFIG.images_per_layer
    config = replace(CONFIG, image_noise=0.9, linear_start=False)
    with nn.modules.module.register_module_forward_pre_hook(
        lambda module, arguments: first_latents(module, arguments) if isinstance(module, Generator) else None
    ):
        train_generator(classifier, layers, Remembered(digits), config, seed=1)
    assert len(given) == len(noise) == CONFIG.steps
    left = 0
    for latent, images, added in zip(given, drawn[-CONFIG.steps :], noise, strict=True):
        noisy = with_noise(classifier, images, added)
        left += int((noisy == images).flatten(1).all(dim=1).sum())
        _, latents = capture(classifier, noisy, layers)
        assert torch.allclose(latent, latents[layers[1].name][count : 2 * count], atol=1e-6)
    assert left > len(images) * CONFIG.steps / 4  # beyond the quarter without noise, some would be predicted otherwise
