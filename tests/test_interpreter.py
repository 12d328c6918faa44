from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError, ImageError, LabelError, LayerError, WeightsError
from interpretgan.gan.train import GANConfig
from interpretgan.interpreter import Explanation, InterpretGAN
from interpretgan.layers import capture, examine, find_layers
from interpretgan.report import draw_explanation
from tests import reference
from tests.networks import ReusedReLU, Tiny

CONFIG = GANConfig(steps=2, images_per_layer=2, width=16, blocks=1, noise=4, precision="fp32")


class Darkest:
    """A judge that reads a class off an image without any network."""

    def predict(self, images: Tensor) -> Tensor:
        return images.flatten(1).argmin(dim=1) % 10


@pytest.fixture(scope="module")
def fitted() -> InterpretGAN:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(1, (12, 20)))
    images = torch.rand(30, 1, 12, 20)
    return InterpretGAN(classifier, config=CONFIG, seed=3).fit(images)


def test_an_explanation_is_the_generator_at_the_latent_with_one_noise(fitted: InterpretGAN) -> None:
    images, adversarial = torch.rand(2, 4, 1, 12, 20)
    found = fitted.explain(images, adversarial, seed=5)
    noise = torch.randn(4, CONFIG.noise, generator=torch.Generator().manual_seed(5))
    for version, rows in ((images, found.natural_explanations), (adversarial, found.adversarial_explanations)):
        _, latents = capture(fitted.classifier, version, fitted.layers)
        assert rows is not None
        for index, layer in enumerate(fitted.layers):
            only = [latents[layer.name] if i == index else None for i in range(len(fitted.layers))]
            torch.testing.assert_close(rows[index], fitted.network(only, noise))
    assert found.layers == ("conv", "relu", "pool", "fc1", "relu2", "fc2")
    assert found.adversarial_explanations is not None
    torch.testing.assert_close(found.difference, found.adversarial_explanations - found.natural_explanations)


def test_datasets_and_pairs_fit_what_a_tensor_fits(fitted: InterpretGAN) -> None:
    images = torch.rand(30, 1, 12, 20)
    labels = torch.arange(30) % 10
    drawn = [
        InterpretGAN(fitted.classifier, config=CONFIG).fit(data).explain(images[:2]).natural_explanations
        for data in (images, (images, labels), TensorDataset(images, labels))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_the_same_image_is_explained_the_same(fitted: InterpretGAN) -> None:
    images = torch.rand(3, 1, 12, 20)
    found = fitted.explain(images, images.clone())
    assert torch.equal(found.difference, torch.zeros_like(found.difference))


@pytest.mark.parametrize("size", [4, 16])
def test_an_image_looks_the_same_whatever_else_is_explained(fitted: InterpretGAN, size: int) -> None:
    interpreter, images = fitted, torch.rand(3, 1, 12, 20)
    if size != CONFIG.noise:
        config = replace(CONFIG, noise=size)
        interpreter = InterpretGAN(fitted.classifier, config=config, seed=3).fit(images)
    among = interpreter.explain(images, indices=[3, 40, 17])
    alone = interpreter.explain(images[2:], indices=torch.tensor([17]))
    torch.testing.assert_close(among.natural_explanations[:, 2:], alone.natural_explanations)
    assert not torch.equal(interpreter.noise_of([3]), interpreter.noise_of([17]))
    assert torch.equal(interpreter.noise_of(range(40))[17:18], interpreter.noise_of([17]))
    assert alone.indices is not None
    assert alone.indices.tolist() == [17]
    with pytest.raises(ConfigError, match="numbers of images"):
        interpreter.explain(images, indices=[1, 2])


def test_predictions_start_with_the_image_and_tell_where_it_turns(fitted: InterpretGAN) -> None:
    images, adversarial = torch.rand(2, 40, 1, 12, 20)
    labels = torch.arange(40) % 3
    found = fitted.explain(images, adversarial, labels=labels, judge=Darkest())
    assert found.natural_predictions is not None
    assert found.adversarial_predictions is not None
    assert torch.equal(found.natural_predictions[0], Darkest().predict(images))
    assert torch.equal(found.adversarial_predictions[0], Darkest().predict(adversarial))
    names = ("image", *found.layers)
    rows = reference.turns(labels.tolist(), found.natural_predictions.tolist(), found.adversarial_predictions.tolist())
    assert found.turns == tuple(None if row is None else names[row] for row in rows)
    assert len(set(found.turns)) > 1


@pytest.mark.parametrize(
    ("natural", "adversarial", "turn"),
    [
        ("1111", "1111", None),  # nothing turns
        ("1111", "1100", "b"),
        ("1111", "0000", "image"),
        ("1111", "1010", "c"),  # what turns back has not turned
        ("1111", "0001", None),
        ("1011", "1000", "b"),  # where the natural explanation is wrong, nothing is said,
        ("1011", "0100", "image"),  # not even that it was right under attack,
        ("1000", "1000", None),  # and nobody can tell where it turns
        ("0000", "0000", None),
        ("1101", "1100", "c"),
        ("1110", "1100", "b"),
    ],
)
def test_a_turn_is_at_a_layer_whose_natural_explanation_is_predicted_right(
    natural: str, adversarial: str, turn: str | None
) -> None:
    """Rows: the image, then the layers a, b and c; 1 is the true class."""
    blank = torch.zeros(3, 2, 1, 2, 2)
    predictions = [torch.tensor([[int(row), 1] for row in rows]) for rows in (natural, adversarial)]
    labels = torch.ones(2, dtype=torch.int64)
    found = Explanation(("a", "b", "c"), blank[0], blank[0], blank, blank, (0, 1), labels, *predictions)
    assert found.turns == (turn, None)


def test_layers_with_one_tensor_share_one_explanation() -> None:
    torch.manual_seed(0)
    classifier = Classifier(ReusedReLU())
    images = torch.rand(4, 1, 28, 28)
    interpreter = InterpretGAN(classifier, examine(classifier, images).layers, config=CONFIG).fit(images)
    found = interpreter.explain(images[:2])
    row = {name: index for index, name in enumerate(found.layers)}
    assert len(found.layers) == len(interpreter.distinct_layers) + 3
    assert torch.equal(found.natural_explanations[row["features"]], found.natural_explanations[row["features.pool2"]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_classifier_of_another_precision_is_explained(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(1, (12, 20)).to(dtype))
    images = torch.rand(6, 1, 12, 20)
    found = InterpretGAN(classifier, find_layers(classifier, images), config=CONFIG).fit(images).explain(images[:2])
    assert found.natural_explanations.dtype == torch.float32
    assert torch.isfinite(found.natural_explanations).all()


def test_what_is_loaded_and_drawn_under_another_default_dtype_is_the_same(fitted: InterpretGAN, tmp_path: Path) -> None:
    fitted.save(tmp_path / "generator.safetensors")
    images = torch.rand(2, 1, 12, 20)
    drawn = fitted.draw(images, fitted.noise_of([0, 1]))
    torch.set_default_dtype(torch.float64)
    try:
        loaded = InterpretGAN.load(tmp_path / "generator.safetensors", fitted.classifier)
        again = loaded.draw(images, loaded.noise_of([0, 1]))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again, drawn)


def test_settings_and_names_in_the_place_of_layers_are_refused(fitted: InterpretGAN) -> None:
    for given in (CONFIG, ["conv1"], "conv1"):
        with pytest.raises(LayerError, match=r"a list of Layer, got .*; choose them by name"):
            InterpretGAN(fitted.classifier, given)  # type: ignore[arg-type]
    with pytest.raises(LayerError, match="at least one layer, each once"):
        InterpretGAN(fitted.classifier, [])


def test_saving_and_loading_is_an_identity(fitted: InterpretGAN, tmp_path: Path) -> None:
    fitted.save(tmp_path / "generator.safetensors")
    loaded = InterpretGAN.load(tmp_path / "generator.safetensors", fitted.classifier)
    assert (loaded.layers, loaded.seed) == (fitted.layers, fitted.seed)
    assert loaded.config == loaded.resolved_config == fitted.resolved_config
    noisy = InterpretGAN(fitted.classifier, fitted.layers, config=replace(CONFIG, image_noise=0.2))
    noisy.fit(torch.rand(4, 1, 12, 20)).save(tmp_path / "noisy.safetensors")
    again = InterpretGAN.load(tmp_path / "noisy.safetensors", fitted.classifier)
    assert again.network.image_noise == again.resolved_config.image_noise == 0.2
    assert again.natural_start is noisy.natural_start is None
    assert loaded.recognition_network_sha256 is fitted.recognition_network_sha256 is None
    images = torch.rand(2, 1, 12, 20)
    assert torch.equal(loaded.explain(images).natural_explanations, fitted.explain(images).natural_explanations)


@pytest.mark.parametrize(("channels", "smooth"), [(1, True), (1, False), (3, True)])
def test_a_loaded_generator_draws_as_smoothly_as_the_saved_one(channels: int, smooth: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(6, channels, 12, 20)
    if smooth and channels == 1:
        images = F.interpolate(images[..., ::4, ::5], size=(12, 20), mode="bicubic").clamp(0, 1)
    classifier = Classifier(Tiny(channels, (12, 20)))
    saved = InterpretGAN(classifier, find_layers(classifier, images), config=CONFIG).fit(images)
    drawn, path = saved.explain(images).natural_explanations, tmp_path / "generator.safetensors"
    saved.save(path)
    assert saved.network.smooth is smooth
    assert torch.equal(InterpretGAN.load(path, classifier).explain(images).natural_explanations, drawn)


def test_a_generator_of_another_classifier_is_refused(fitted: InterpretGAN, tmp_path: Path) -> None:
    fitted.save(tmp_path / "generator.safetensors")
    torch.manual_seed(1)
    with pytest.raises(WeightsError, match="another one, or the same with other weights"):
        InterpretGAN.load(tmp_path / "generator.safetensors", Classifier(Tiny(1, (12, 20))))


def test_a_file_of_another_version_is_refused(
    fitted: InterpretGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fitted.network.state_dict()
    monkeypatch.setattr(fitted.network, "state_dict", lambda: {k: v for k, v in state.items() if "look" not in k})
    fitted.save(tmp_path / "generator.safetensors")
    with pytest.raises(WeightsError, match=r"a network that is built differently, .*; delete it and fit it again$"):
        InterpretGAN.load(tmp_path / "generator.safetensors", fitted.classifier)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors file at all"])
def test_a_file_that_is_none_is_refused(fitted: InterpretGAN, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "generator.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WeightsError, match="fit it again, or check the path"):
        InterpretGAN.load(file, fitted.classifier)


def test_an_explanation_can_be_drawn_with_and_without_a_judge(fitted: InterpretGAN, tmp_path: Path) -> None:
    images, adversarial = torch.rand(2, 2, 1, 12, 20)
    bare = fitted.explain(images, adversarial)
    read = fitted.explain(images, adversarial, labels=torch.tensor([1, 2]), judge=Darkest())
    sizes = []
    for number, found in enumerate((bare, read)):
        file = draw_explanation(found, str(tmp_path / f"{number}.png"), [f"class {k}" for k in range(10)])
        with Image.open(file) as picture:
            sizes.append(picture.size)
    assert min(sizes[0]) > 100
    with pytest.raises(ConfigError, match="adversarial images"):
        draw_explanation(fitted.explain(images), tmp_path / "none.png")


def test_misuse_is_answered_with_what_to_do(fitted: InterpretGAN) -> None:
    with pytest.raises(ConfigError, match="expected a Judge, or what has its predict, got a str"):
        fitted.explain(torch.rand(2, 1, 12, 20), judge="judge")  # type: ignore[arg-type]  # on purpose
    fresh = InterpretGAN(fitted.classifier, fitted.layers)
    with pytest.raises(ConfigError, match=r"call fit\(images\) first"):
        fresh.explain(torch.rand(1, 1, 12, 20))
    with pytest.raises(LayerError, match="each once"):
        InterpretGAN(fitted.classifier, [])
    with pytest.raises(ImageError, match="one adversarial image per image"):
        fitted.explain(torch.rand(2, 1, 12, 20), torch.rand(3, 1, 12, 20))
    for labels in (torch.tensor([0, 99]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]), torch.tensor([0])):
        with pytest.raises(LabelError):
            fitted.explain(torch.rand(2, 1, 12, 20), labels=labels)
    plain = fitted.explain(torch.rand(1, 1, 12, 20))
    assert "\n" not in repr(plain)
    assert repr(plain).startswith("Explanation(1 images of 12x20, ")
    with pytest.raises(ConfigError, match="adversarial images"):
        _ = plain.difference
    with pytest.raises(ConfigError, match="labels, a judge and adversarial images"):
        _ = plain.turns


def test_weights_that_changed_since_it_was_fitted_are_refused_and_saved_as_others(tmp_path: Path) -> None:
    classifier, images = Classifier(Tiny(1, (12, 20))), torch.rand(6, 1, 12, 20)
    passes = torch.zeros((), dtype=torch.int64)
    classifier.model.register_buffer("passes", passes)
    interpreter = InterpretGAN(classifier, config=CONFIG).fit(images)
    passes += 1  # as a network counts them
    interpreter.explain(images)
    passes -= 1
    state = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    with torch.no_grad():
        next(classifier.model.parameters()).mul_(2)
    with pytest.raises(ConfigError, match="with other weights or normalisation; call fit"):
        interpreter.explain(images)
    with pytest.raises(ConfigError, match="with other weights or normalisation; call fit"):  # so is a diagnosis
        interpreter.draw(images, interpreter.noise_of(range(6)))
    interpreter.save(tmp_path / "g.safetensors")
    with pytest.raises(WeightsError, match="other weights"):
        InterpretGAN.load(tmp_path / "g.safetensors", classifier)
    classifier.model.load_state_dict(state)
    interpreter.explain(images)
    classifier.std = (0.5,)
    with pytest.raises(ConfigError, match="call fit"):
        interpreter.explain(images)
    classifier.std = None
    InterpretGAN.load(tmp_path / "g.safetensors", classifier).explain(images)


def test_an_explanation_as_a_table_and_as_a_figure() -> None:
    images, drawn = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 3, 4, 5)
    changed = drawn.clone()
    changed[1, 0] = 0.5
    explanation = Explanation(
        ("a", "b"), images, images + 0.1, drawn, changed, (0.0, 1.0), torch.tensor([1, 0]),
        torch.tensor([[1, 0], [1, 0], [1, 0]]), torch.tensor([[1, 0], [1, 0], [0, 0]]),
    )  # fmt: skip
    frame = explanation.to_frame()
    assert frame["layer"].tolist() == ["image", "a", "b"] * 2
    assert frame["label"].tolist() == [1, 1, 1, 0, 0, 0]
    assert frame["adversarial"].tolist() == [1, 1, 0, 0, 0, 0]
    assert frame["turn"].tolist() == [False, False, True, False, False, False]
    assert frame["difference"].tolist() == pytest.approx([0.1, 0.0, 0.5, 0.1, 0.0, 0.0])
    figure = explanation.plot(["zero", "one"])
    (panel,) = figure.axes
    assert len(panel.images) == 2 * 3 * 3
    said = [text.get_text() for text in panel.texts]
    assert said[:3] == ["image", "a", "b"]
    assert said.count("difference") == 2
    assert [text for text in said if text.endswith(("one", "zero"))] == [*["one"] * 5, "✗ zero", *["zero"] * 6]
    assert len(panel.patches) == 3  # the frames where the first one turns
    alone = Explanation(("a", "b"), images, None, drawn, None, (0.0, 1.0))
    assert list(alone.to_frame()) == ["image", "layer"]
    assert len(alone.plot().axes[0].images) == 2 * 3
