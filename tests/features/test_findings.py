"""Findings of a few digits, and the page that shows them, with the pretrained LeNet and a generator of two steps."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import interpretgan as ig
from interpretgan.baselines.explainers import EXPLAINERS, Explainer, ExplainerError
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import LayerError
from interpretgan.features.exciting_patches import ExcitingPatch, exciting_patches, summary
from interpretgan.features.findings import Findings, look_closely
from interpretgan.layers import capture
from interpretgan.report import write_explanation
from tests.report.test_browser import DESKTOP, PHONE, Browser


class ByClassifier:
    """A judge that is the classifier itself, which does for a test."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, images: Tensor) -> Tensor:
        return self.classifier.logits(images).argmax(dim=1)


def refuse(_classifier: Classifier, _layer: ig.Layer, _images: Tensor, _targets: Tensor) -> Tensor:
    raise ExplainerError(expected="a network for this", got="another one", do="use it not")


NEVER = Explainer("never", "nothing", "nowhere", refuse, captum=False)
INVERSION = next(explainer for explainer in EXPLAINERS if explainer.name == "inversion")


@pytest.fixture(scope="module")
def fitted(digits: tuple[ImageSet, ImageSet]) -> ig.InterpretGAN:
    classifier = ig.load_classifier("lenet5-max")
    config = ig.GANConfig(steps=2, images_per_layer=2)
    return ig.InterpretGAN(classifier, config=config).fit(digits[0].head(100))


@pytest.fixture(scope="module")
def pairs(fitted: ig.InterpretGAN, digits: tuple[ImageSet, ImageSet]) -> tuple[Tensor, Tensor, Tensor]:
    """Two digits that the network gets right, attacked, and their classes."""
    images, labels = digits[1].batch(range(100))
    right = (fitted.classifier.logits(images).argmax(dim=1) == labels).nonzero()[:2, 0]
    images, labels = images[right], labels[right]
    threat_model = ig.ThreatModel("linf", 0.3, steps=10)
    return images, ig.attack(fitted.classifier, images, labels, threat_model, seed=0), labels


@pytest.fixture(scope="module")
def findings(
    fitted: ig.InterpretGAN, pairs: tuple[Tensor, Tensor, Tensor], digits: tuple[ImageSet, ImageSet]
) -> Findings:
    judge = ByClassifier(fitted.classifier)
    reference = digits[0].head(200)
    return look_closely(
        fitted, judge, *pairs, reference=reference, layer="fc1", towards=8, explainers=(INVERSION, NEVER)
    )


def test_findings_hold_all_that_is_shown(findings: Findings) -> None:
    assert findings.layers == ("fc1", "fc1")
    assert findings.units.turned.all()
    assert [layer.name for layer in findings.units.layers] == ["fc1"]
    inversion, never = findings.others
    assert inversion.natural is not None
    assert inversion.natural.shape == findings.explanation.images.shape
    assert never.natural is None
    assert never.error == "expected a network for this, got another one; use it not"
    arrays = findings.arrays()
    assert arrays["path/fc1/frames"].shape == arrays["towards/fc1/frames"].shape == (9, 2, 1, 28, 28)
    assert torch.equal(arrays["towards/fc1/frames"][0], arrays["path/fc1/frames"][0])
    assert arrays["inversion/natural"].shape == (2, 1, 28, 28)


def test_the_path_begins_and_ends_at_the_explanations(findings: Findings) -> None:
    path, explanation = findings.paths["fc1"], findings.explanation
    row = explanation.layers.index("fc1")
    assert explanation.adversarial_explanations is not None
    torch.testing.assert_close(path.frames[0], explanation.natural_explanations[row], atol=1e-5, rtol=0)
    torch.testing.assert_close(path.frames[-1], explanation.adversarial_explanations[row], atol=1e-5, rtol=0)
    assert explanation.labels is not None
    assert torch.equal(path.classified[0], explanation.labels)
    assert path.classified[-1].tolist() == findings.units.shown.tolist()
    # What is put back is what patching put back.
    proof = findings.units["fc1"].patching
    assert proof is not None
    back = (path.patched_classified == explanation.labels).tolist()
    assert back == proof.returned["responsible"][:, proof.sizes.index(proof.tenth)].tolist()


def test_patches_excite_the_unit_and_are_all_that_it_sees(
    fitted: ig.InterpretGAN, digits: tuple[ImageSet, ImageSet]
) -> None:
    classifier, data = fitted.classifier, digits[0].head(150)
    layer = next(layer for layer in fitted.layers if layer.name == "relu1")
    patches = exciting_patches(classifier, {layer: [3]}, data, count=4)["relu1"][3]
    _, latents = capture(classifier, data.batch(range(150))[0], [layer])
    highest = latents["relu1"][:, 3].amax(dim=(1, 2))
    assert [patch.image for patch in patches] == highest.argsort(descending=True, stable=True)[:4].tolist()
    for patch in patches:
        assert patch.part.shape[1] <= 5
        assert patch.part.shape[2] <= 5
        # Outside of the patch the image may be anything.
        whole = torch.from_numpy(patch.pixels).float()[None]
        other = torch.rand(whole.shape, generator=torch.Generator().manual_seed(0))
        top, left, bottom, right = patch.box
        other[:, :, top:bottom, left:right] = whole[:, :, top:bottom, left:right]
        _, again = capture(classifier, other, [layer])
        assert (again["relu1"][:, 3] - patch.activation).abs().min() < 1e-4


def test_a_unit_in_a_line(findings: Findings) -> None:
    layer = findings.units["fc1"]
    change = replace(
        layer, change=np.full_like(layer.change, 4.1), deviation=np.ones_like(layer.deviation),
        to_true=np.full_like(layer.to_true, -0.1), to_shown=np.full_like(layer.to_shown, 2.0),
    )  # fmt: skip
    patches = [ExcitingPatch(0, label, 1.0, (0, 4, 6, 10), np.zeros((1, 28, 28))) for label in (8, 8, 9, 9)]
    classes = [str(number) for number in range(10)]
    line = summary(change, 37, image=0, patches=patches, names=("4", "9"), classes=classes)
    assert line == "unit 37, excited most by 8 and 9, at the top left: rises by 4.1 σ, which speaks for 9"
    taken = replace(change, change=-change.change, to_true=-change.to_shown, to_shown=change.to_true)
    line = summary(taken, 37, image=0, patches=[], names=("4", "9"), classes=classes)
    assert line == "unit 37: falls by 4.1 σ, which speaks against 4"


def test_where_explanations_vary_other_draws_of_the_same_latents_are_shown(
    pairs: tuple[Tensor, Tensor, Tensor], digits: tuple[ImageSet, ImageSet], findings: Findings, tmp_path: Path
) -> None:
    classifier = ig.load_classifier("lenet5-max")
    layers = [layer for layer in ig.find_layers(classifier, pairs[0]) if layer.name in ("pool1", "fc1")]
    plain, fitted = (
        ig.InterpretGAN(
            classifier, layers, config=ig.GANConfig(steps=80, images_per_layer=4, diversity=weight)
        ).fit(digits[0].head(100))
        for weight in (0.0, 1000.0)
    )  # fmt: skip
    judge, few = ByClassifier(classifier), digits[0].head(50)
    found = look_closely(fitted, judge, *pairs, reference=few, layer="fc1", explainers=(INVERSION,), seed=5)
    drawn = [found.explanation.natural_explanations, *(draw.natural_explanations for draw in found.draws)]
    torch.testing.assert_close(drawn[1], fitted.explain(pairs[0], seed=6).natural_explanations)
    hardly = torch.stack([plain.explain(pairs[0], seed=seed).natural_explanations for seed in range(4)])
    assert (torch.stack(drawn).var(dim=0) > 5 * hardly.var(dim=0)).float().mean() > 0.5
    assert found.arrays()["draws"].shape == (3, *drawn[0].shape)
    page = write_explanation(found, tmp_path, ["a", "b"], ()).read_text()
    assert page.count("draw 4</th>") == page.count("varies</th>") == 2
    assert not findings.draws  # of a generator that was not trained to vary


def test_a_proof_that_random_units_give_too_is_none_and_wrong_images_are_named(
    findings: Findings, tmp_path: Path
) -> None:
    assert write_explanation(findings, tmp_path, ["a", "b"], ()).read_text().count("Little is proved") == 0
    units, path = findings.units["fc1"], findings.paths["fc1"]
    assert units.patching is not None
    returned = {order: np.ones_like(table) for order, table in units.patching.returned.items()}
    easy = replace(units, patching=replace(units.patching, returned=returned))
    classified = path.classified.clone()
    classified[0, 1] = 3
    wrong = replace(
        findings, paths={"fc1": replace(path, classified=classified)},
        units=replace(findings.units, layers=(easy,), turned=np.array([True, False])),
    )  # fmt: skip
    page = write_explanation(wrong, tmp_path, ["a", "b"], ()).read_text()
    assert page.count("Little is proved:</strong>") == 1
    assert f"b: {findings.units.labels[1]}, taken for 3 without the attack, too</h2>" in page


def test_grad_cam_finds_its_maps_where_none_of_the_explained_layers_has_some(
    fitted: ig.InterpretGAN, pairs: tuple[Tensor, Tensor, Tensor], digits: tuple[ImageSet, ImageSet]
) -> None:
    classifier, config = fitted.classifier, ig.GANConfig(steps=1, images_per_layer=2)
    fc1 = [layer for layer in fitted.layers if layer.name == "fc1"]
    interpreter = ig.InterpretGAN(classifier, fc1, config=config).fit(digits[0].head(50))
    maps = next(explainer for explainer in EXPLAINERS if explainer.needs_maps)
    found = look_closely(interpreter, ByClassifier(classifier), *pairs, reference=digits[0].head(50), explainers=[maps])
    assert found.others[0].layers == ("pool2", "pool2")
    assert found.others[0].error is None


def test_an_unknown_layer_is_refused(
    fitted: ig.InterpretGAN, pairs: tuple[Tensor, Tensor, Tensor], digits: tuple[ImageSet, ImageSet]
) -> None:
    with pytest.raises(LayerError, match="got 'fc9'"):
        look_closely(fitted, ByClassifier(fitted.classifier), *pairs, reference=digits[0], layer="fc9", explainers=())


@pytest.mark.needs_browser
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_fits_a_screen(findings: Findings, browser: str, tmp_path: Path, width: int) -> None:
    page = write_explanation(findings, tmp_path, ["image 3", "own.png"], [f"digit {number}" for number in range(10)])
    with closing(Browser(browser, tmp_path / "profile")) as tab:
        tab.open(page, width=width, scheme="dark")
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run("[...document.images].every(image => image.naturalWidth > 0)")


def test_the_page_says_what_was_found(findings: Findings, tmp_path: Path) -> None:
    classes = [f"digit {number}" for number in range(10)]
    page = write_explanation(findings, tmp_path, ["image 3", "<b>own.png"], classes).read_text()
    assert page.count("<section") == 3
    assert "&lt;b&gt;own.png" in page
    assert "Left out: expected a network for this, got another one" in page
    shown = findings.units.shown
    assert f"is taken for digit {shown[0]}" in page
    assert len(re.findall(r"network (?:<|d)", page)) == 2 * (10 + 9)
    assert page.count("What would have to change at <code>fc1</code> for digit 8") == 2
    assert "http" not in re.sub(r"http-equiv", "", page)
    frame = pd.read_csv(tmp_path / "explanation.csv")
    assert set(frame["name"]) == {"image 3", "<b>own.png"}
    assert len(frame) == 2 * 120
    np.testing.assert_allclose(frame["change_towards"], findings.towards["fc1"].change.flatten(), atol=1e-9)
    with np.load(tmp_path / "explanation.npz", allow_pickle=False) as arrays:
        assert arrays["looked_at"].tolist() == ["fc1", "fc1"]
        assert arrays["natural_explanations"].shape[:2] == (len(findings.explanation.layers), 2)
