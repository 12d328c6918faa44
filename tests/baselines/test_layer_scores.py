"""Each score against a slow computation of its own, image by image, on a network of a few units in doubles."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import functional

from interpretgan.attacks import ThreatModel
from interpretgan.baselines import definitions
from interpretgan.baselines.layer_scores import LAYER_SCORES, ScoreInputs, measure_scores, top_layer
from interpretgan.baselines.probes import FEATURES, sketch
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError
from interpretgan.layers import find_layers
from interpretgan.planted.lipschitz import lipschitz_model
from interpretgan.statistics import Floats
from tests.networks import Functional, Residual, ReusedReLU

THREAT = ThreatModel("linf", 0.2, steps=2)
jacobian: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] = functional.jacobian


@dataclass(frozen=True)
class Slow:
    """A network as its stages, applied one after the other, and the inputs of a score."""

    stages: list[nn.Module]
    inputs: ScoreInputs

    def path(self, image: Tensor) -> list[Tensor]:
        """An image and its latents, of one image: `[1, ...]` each."""
        latents = [image[None]]
        for stage in self.stages:
            latents.append(stage(latents[-1]).detach())
        return latents

    def rest(self, place: int, latent: Tensor) -> Tensor:
        """Logits from the latent of a place."""
        for stage in self.stages[place:]:
            latent = stage(latent)
        return latent

    def each(self) -> list[tuple[list[Tensor], list[Tensor], int]]:
        """The natural and adversarial latents of every image, and its class."""
        tensors = zip(self.inputs.images, self.inputs.adversarial, self.inputs.labels.tolist(), strict=True)
        return [(self.path(x), self.path(changed), y) for x, changed, y in tensors]


def network(classes: int) -> nn.Sequential:
    torch.manual_seed(1)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(1, 2, 3), relu=nn.ReLU(inplace=True), pool=nn.MaxPool2d(2), flat=nn.Flatten(),
        fc1=nn.Linear(8, 6), relu2=nn.ReLU(), fc2=nn.Linear(6, classes),
    )  # fmt: skip
    return nn.Sequential(parts).double()


def slow(classes: int = 3) -> Slow:
    model = network(classes)
    classifier = Classifier(model)
    random = torch.Generator().manual_seed(2)
    images = torch.rand(9, 1, 6, 6, generator=random).double()
    with torch.no_grad():  # the classes are about as likely
        model.get_submodule("fc2").get_parameter("bias").sub_(model(images).median(dim=0).values)
    adversarial = (images + 0.4 * (torch.rand(images.shape, generator=random) - 0.5)).clamp(0, 1).double()
    shown = classifier.logits(images).argmax(dim=1)
    labels = torch.where(torch.arange(9) < 7, shown, (shown + 1) % classes)  # the last two are predicted wrong
    train = (torch.rand(60, 1, 6, 6, generator=random).double(), torch.randint(classes, (60,), generator=random))
    layers = tuple(find_layers(classifier, images))
    assert [layer.name for layer in layers] == ["conv", "relu", "pool", "fc1", "relu2", "fc2"]
    inputs = ScoreInputs(classifier, layers, images, labels, adversarial, train, THREAT, 0)
    parts = dict(copy.deepcopy(model).named_children())
    stages = [parts["conv"], nn.ReLU(), parts["pool"], nn.Sequential(parts["flat"], parts["fc1"]), nn.ReLU()]
    return Slow([*stages, parts["fc2"]], inputs)


@pytest.fixture
def case() -> Slow:
    return slow()


def measured(name: str, inputs: ScoreInputs) -> Floats:
    (found,) = measure_scores([name], inputs)
    assert found.error is None
    assert found.seconds >= 0
    return np.array([np.nan if value is None else value for value in found.values])


# --- the definitions ---------------------------------------------------------------------------------------------


def test_how_far_the_latents_move(case: Slow) -> None:
    relative, absolute, stretch = [], [], []
    for natural, changed, _ in case.each():
        moved = [float((b - a).norm()) for a, b in zip(natural, changed, strict=True)]
        relative.append([m / float(a.norm()) for m, a in zip(moved[1:], natural[1:], strict=True)])
        absolute.append([float((b - a).abs().mean()) for a, b in zip(natural[1:], changed[1:], strict=True)])
        stretch.append([after / before for before, after in pairwise(moved)])
    np.testing.assert_allclose(measured("relative_error", case.inputs), np.mean(relative, axis=0))
    np.testing.assert_allclose(measured("feature_distortion", case.inputs), np.mean(absolute, axis=0))
    np.testing.assert_allclose(measured("secant_lipschitz", case.inputs), np.max(stretch, axis=0))


def test_an_image_that_is_not_attacked_stretches_nothing(case: Slow) -> None:
    still = replace(case.inputs, adversarial=case.inputs.images.clone())
    assert measured("secant_lipschitz", still).tolist() == [0.0] * 6
    assert measured("relative_error", still).tolist() == [0.0] * 6


def test_jacobian_norm(case: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    for natural, _, _ in case.each():
        pairs = zip(case.stages, natural[:-1], natural[1:], strict=True)
        matrices = [jacobian(stage, z).reshape(after.numel(), z.numel()) for stage, z, after in pairs]
        expected.append([float(torch.linalg.matrix_norm(matrix, 2)) for matrix in matrices])
    np.testing.assert_allclose(measured("jacobian_norm", case.inputs), np.mean(expected, axis=0), rtol=0.05)
    monkeypatch.setattr(definitions, "POWER_STEPS", 300)
    np.testing.assert_allclose(measured("jacobian_norm", case.inputs), np.mean(expected, axis=0), rtol=1e-3)


def test_gradient_norm(case: Slow) -> None:
    def loss(place: int, label: int, z: Tensor) -> Tensor:
        return -case.rest(place, z).log_softmax(dim=1)[0, label]

    expected = []
    for natural, _, label in case.each():
        row = []
        for place, z in list(enumerate(natural))[1:]:
            gradient = jacobian(partial(loss, place, label), z)
            row.append(float(gradient.norm() * z.norm()))
        expected.append(row)
    np.testing.assert_allclose(measured("gradient_norm", case.inputs), np.mean(expected, axis=0), rtol=1e-5)


def test_latent_margin_is_the_distance_where_that_is_known() -> None:
    two = slow(classes=2)
    weight, expected = two.stages[-1].get_parameter("weight").detach(), list[list[float]]()
    for natural, _, label in two.each():
        logits = natural[-1][0]
        lead = float(logits[label] - logits[1 - label])
        if lead > 0:
            to_logits = lead / 2**0.5 / float(logits.norm())
            before = lead / float((weight[label] - weight[1 - label]).norm()) / float(natural[-2].norm())
            expected.append([before, to_logits])
    assert len(expected) == 7
    found = measured("latent_margin", two.inputs)
    median = np.median(expected, axis=0)
    assert (found[-2:] >= median).all()  # an upper estimate
    np.testing.assert_allclose(found[-2:], median, rtol=0.03)
    assert (found > 0).all()


def test_latent_margin_takes_the_way_of_the_attack_where_gradients_lead_nowhere() -> None:
    # Beyond the step of the first layer the gradient is zero, so that only the attacked image shows the way.
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1).sum(dim=1, keepdim=True) > 2.0) + 0.0 * x.flatten(1)

    head = nn.Linear(4, 2)
    head.weight.data, head.bias.data = torch.tensor([[1.0] * 4, [-1.0] * 4]), torch.tensor([-2.0, 2.0])
    classifier = Classifier(nn.Sequential(OrderedDict(own=nn.Identity(), step=Step(), head=head)))
    images, attacked = torch.full((3, 1, 2, 2), 0.75), torch.full((3, 1, 2, 2), 0.25)
    assert classifier.logits(images).argmax(dim=1).tolist() == [0, 0, 0]
    layers = tuple(find_layers(classifier, torch.rand(4, 1, 2, 2)))
    inputs = ScoreInputs(classifier, layers, images, torch.zeros(3, dtype=torch.int64), attacked, images, THREAT, 0)
    assert measured("latent_margin", inputs)[0] == pytest.approx(1 / 3, abs=0.01)  # from 0.75 to 0.5
    (unmoved,) = measure_scores(["latent_margin"], replace(inputs, adversarial=images))
    assert unmoved.values[0] is None  # infinitely far
    assert unmoved.top == 1


def test_path_alignment_and_completeness(case: Slow) -> None:
    def logit(place: int, k: int, z: Tensor) -> Tensor:
        return case.rest(place, z)[0, k]

    def attributed(place: int, a: Tensor, b: Tensor, classes: tuple[int, int], points: int) -> Tensor:
        total = torch.zeros_like(a)
        for point in range(points):
            z = a + (point + 0.5) / points * (b - a)
            for sign, k in zip((1, -1), classes, strict=True):
                total += sign * jacobian(partial(logit, place, k), z)
        return (b - a) * total / points

    # Attacked until the class turns: the images of the other order are of another class.
    shown = case.inputs.classifier.logits(case.inputs.images).argmax(dim=1)
    inputs = replace(case.inputs, adversarial=case.inputs.images.flip(0))
    turned = replace(case, inputs=inputs)
    rows, changes = [], []
    for natural, changed, label in turned.each():
        before, target = int(natural[-1].argmax()), int(changed[-1].argmax())
        if before == label != target:
            pairs = list(enumerate(zip(natural, changed, strict=True)))
            each = [attributed(place, a, b, (label, target), definitions.PATH_POINTS) for place, (a, b) in pairs]
            rows.append([float(a.sum().abs() / a.abs().sum()) for a in each])
            margin = [float(z[-1][0, label] - z[-1][0, target]) for z in (natural, changed)]
            fine = [float(attributed(place, a, b, (label, target), 100).sum()) for place, (a, b) in pairs]
            changes.append((margin[1] - margin[0], fine))
    assert len(set(shown.tolist())) > 1
    assert rows
    np.testing.assert_allclose(measured("path_alignment", inputs), np.diff(np.mean(rows, axis=0)), rtol=1e-6, atol=1e-9)
    for change, sums in changes:
        np.testing.assert_allclose(sums, change, rtol=0.05)  # the same at every layer


def test_robust_criticality(case: Slow) -> None:
    x, y = case.inputs.adversarial, case.inputs.labels
    expected = []
    for name in ("conv", None, None, "fc1", None, "fc2"):
        model = copy.deepcopy(case.inputs.classifier.model).requires_grad_(False)
        start = worst = float(F.cross_entropy(model(x), y))
        if name is not None:
            weight = model.get_parameter(f"{name}.weight").requires_grad_()
            first, size = weight.detach().clone(), float(weight.detach().norm())
            best, step = first, size / 40
            for _ in range(10):
                weight.data.copy_(best)
                (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), weight)
                weight.data += step * gradient / gradient.norm()
                if float((weight.detach() - first).norm()) > size / 10:
                    weight.data.copy_(first + size / 10 * (weight.detach() - first) / (weight.detach() - first).norm())
                loss = float(F.cross_entropy(model(x), y).detach())
                if loss > worst:
                    worst, best = loss, weight.detach().clone()
                else:
                    step /= 2
            assert float((best - first).norm()) <= 0.1 * size * (1 + 1e-9)
        expected.append(worst - start)
    found = measured("robust_criticality", case.inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[[1, 2, 4]].tolist() == [0.0, 0.0, 0.0]
    assert (found[[0, 3, 5]] > 0).all()


def test_robust_criticality_climbs_where_whole_steps_overshoot() -> None:
    # At the top of a sharp ridge of the loss a step of a quarter of the radius falls on the other side.
    class Ridge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.last = nn.Parameter(torch.tensor([[1.0]])), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            height = x.flatten(1).sum(dim=1, keepdim=True) * (1 - 500 * (self.weight - 1.003).abs())
            logits: Tensor = self.last(torch.cat([-height, height], dim=1))
            return logits

    images = torch.rand(4, 1, 2, 2) + 0.1
    classifier = Classifier(Ridge(), bounds=(0, 2))
    layers = tuple(find_layers(classifier, images))
    labels = torch.zeros(4, dtype=torch.int64)
    inputs = ScoreInputs(classifier, layers, images, labels, images, (images, labels), THREAT, 0)
    assert measured("robust_criticality", inputs)[-1] > 0


def test_every_weight_belongs_to_one_layer() -> None:
    classifier = Classifier(Residual())
    images = torch.rand(4, 1, 9, 11)
    layers = tuple(find_layers(classifier, images))
    inputs = ScoreInputs(classifier, layers, images, torch.zeros(4, dtype=torch.int64), images, images, THREAT, 0)
    owned = dict(zip((layer.name for layer in layers), definitions.weights_of_layers(inputs), strict=True))
    assert set(owned["stem.0"]) == {"stem.0.weight"}
    assert set(owned["blocks.0"]) == {"blocks.0.conv1.weight", "blocks.0.conv2.weight"}
    assert set(owned["blocks.1"]) == {f"blocks.1.{name}.weight" for name in ("conv1", "conv2", "shortcut")}
    names = [name for weights in owned.values() for name in weights]
    assert sorted(names) == sorted(name for name, p in classifier.model.named_parameters() if p.ndim >= 2)


def test_the_way_to_a_layer_is_run_by_one_image_where_that_does_as_well(case: Slow) -> None:
    class Counts(nn.Module):
        """Takes the number of rows from the image, as some networks do."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            count = len(x)
            logits: Tensor = self.head(self.conv(x).view(count, 32))
            return logits

    images = case.inputs.images.float()
    for model, enough in ((case.inputs.classifier.model.float(), 1), (Counts(), 9)):
        classifier = Classifier(model)
        layers = tuple(find_layers(classifier, images))
        inputs = replace(case.inputs, classifier=classifier, layers=layers, images=images)
        assert len(inputs.before(1, inputs.latents(images)[1], images)) == enough


def test_costly_scores_look_at_fewer_images(case: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured("latent_margin", case.inputs)
    monkeypatch.setattr(definitions, "SEARCHED", 4)
    first = [tensor[:4] for tensor in (case.inputs.images, case.inputs.labels, case.inputs.adversarial)]
    fewer = replace(case.inputs, images=first[0], labels=first[1], adversarial=first[2])
    found = measured("latent_margin", case.inputs)
    assert found.tolist() == measured("latent_margin", fewer).tolist() != whole.tolist()


def test_linear_probe(case: Slow) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    assert isinstance(case.inputs.train, tuple)
    images, labels = case.inputs.train
    trained = [case.path(image) for image in images]
    attacked, truth = [changed for _, changed, _ in case.each()], case.inputs.labels.numpy()
    accuracy = []
    for place in range(case.inputs.places):
        scaler = StandardScaler().fit([path[place].flatten().tolist() for path in trained])
        features = scaler.transform([path[place].flatten().tolist() for path in trained])
        probe = Ridge(0.01 * len(images)).fit(features, np.eye(3)[labels.numpy()])
        read = probe.predict(scaler.transform([path[place].flatten().tolist() for path in attacked]))
        accuracy.append((read.argmax(axis=1) == truth).mean())
    np.testing.assert_allclose(measured("linear_probe", case.inputs), -np.diff(accuracy), atol=1e-12)
    assert np.ptp(accuracy) > 0


def test_probes_see_where_the_class_is_lost() -> None:
    # The class is whether two pixels are alike, which no linear probe finds; the second layer keeps one of them alone.
    class Keep(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z[:, :1] * torch.tensor([1.0, -1.0])

    classifier = Classifier(nn.Sequential(OrderedDict(same=nn.Flatten(), scale=nn.Linear(2, 2), keep=Keep())))
    linear = classifier.model.get_submodule("scale")
    assert isinstance(linear, nn.Linear)
    linear.weight.data, linear.bias.data = 2 * torch.eye(2), -torch.ones(2)
    images = torch.rand(600, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    labels = ((images[:, 0, 0, 0] > 0.5) == (images[:, 0, 0, 1] > 0.5)).long()
    layers = tuple(layer for layer in find_layers(classifier, images[:4]) if layer.name != "same")
    assert [layer.name for layer in layers] == ["scale", "keep"]
    tested = (images[:200], labels[:200])
    inputs = ScoreInputs(classifier, layers, *tested, images[:200], (images[200:], labels[200:]), THREAT, 0)
    fall = measured("mlp_probe", inputs)
    assert abs(fall[0]) < 0.05
    assert fall[1] > 0.35
    assert np.abs(measured("linear_probe", inputs)).max() < 0.15


def test_the_sketch_is_a_matrix_of_signs() -> None:
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(5, 700, generator=random)
    where, signs = torch.randint(FEATURES, (700,), generator=random), torch.randint(2, (700,), generator=random) * 2 - 1
    matrix = torch.zeros(700, FEATURES)
    for row in range(700):
        matrix[row, where[row]] = signs[row]
    torch.testing.assert_close(sketch(latent, (where, signs.float())), latent @ matrix)
    assert sketch(latent, None) is latent


def test_controls_and_what_is_measured_elsewhere(case: Slow) -> None:
    assert measured("last", case.inputs).tolist() == [0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(measured("depth", case.inputs), np.arange(1, 7) / 6)
    first, again = (measured("random", replace(case.inputs, seed=seed)).tolist() for seed in (3, 3))
    assert first == again != measured("random", case.inputs).tolist()
    losses = np.array([0.1, 0.0, 0.3, 0.1, 0.0, 0.2])
    assert measured("information_loss", replace(case.inputs, information=losses)).tolist() == losses.tolist()


# --- the interface -----------------------------------------------------------------------------------------------


def test_top_layer_follows_the_direction() -> None:
    high, low = LAYER_SCORES["relative_error"], LAYER_SCORES["latent_margin"]
    assert (high.direction, low.direction) == ("high", "low")
    assert top_layer(high, [0.1, 0.3, 0.3]) == 1  # the earliest of equals
    assert top_layer(low, [0.2, float("inf"), 0.1]) == 2
    assert top_layer(high, [float("nan"), -0.5, -0.2]) == 2
    with pytest.raises(ConfigError, match="expected a number of relative_error"):
        top_layer(high, [float("nan")] * 2)


class Answer(nn.Module):
    """A network whose answer is an object with logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.net(images))


def test_an_answer_with_logits_is_scored_as_logits_are(case: Slow) -> None:
    inputs = case.inputs
    classifier = Classifier(Answer(inputs.classifier.model))
    names = [f"net.{layer.name}" for layer in inputs.layers]
    layers = tuple(layer for layer in find_layers(classifier, inputs.images) if layer.name in names)
    answered = replace(inputs, classifier=classifier, layers=layers)
    names = ["robust_criticality", "jacobian_norm"]
    for one, other in zip(measure_scores(names, inputs), measure_scores(names, answered), strict=True):
        assert other.error is None
        assert other.values == pytest.approx(one.values)


def test_one_that_cannot_run_does_not_stop_the_others(case: Slow) -> None:
    told: list[str] = []
    unturned = replace(case.inputs, adversarial=case.inputs.images.clone())
    found = measure_scores(["path_alignment", "information_loss", "depth"], unturned, say=told.append)
    assert [score.name for score in found] == ["path_alignment", "information_loss", "depth"]
    assert found[0].error == "expected an image that the attack turns, got none; attack harder, or more images"
    assert "got none measured" in (found[1].error or "")
    assert found[0].values == found[1].values == ()
    assert found[0].top is None
    assert (found[2].error, found[2].top, len(found[2].values)) == (None, 0, 6)
    assert replace(found[2], values=(0.5, 0.5)).top is None  # both blame alike
    assert [line.split(":")[0] for line in told] == ["path_alignment", "information_loss", "depth"]


def test_a_model_that_fails_is_told_in_a_line(case: Slow) -> None:
    def fail(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled() and given[0].requires_grad:
            raise RuntimeError("no gradient\nhere")

    case.inputs.classifier.model.get_submodule("relu2").register_forward_pre_hook(fail)
    found = {score.name: score for score in measure_scores(["gradient_norm", "relative_error"], case.inputs)}
    assert found["gradient_norm"].error == "RuntimeError: no gradient here"
    assert found["relative_error"].error is None


def test_bad_input_is_refused(case: Slow) -> None:
    with pytest.raises(ConfigError, match="did you mean relative_error"):
        measure_scores(["relative_eror"], case.inputs)
    for wrong in ({"layers": ()}, {"labels": case.inputs.labels[:3]}, {"adversarial": case.inputs.adversarial[:1]}):
        with pytest.raises(ConfigError, match="as many adversarial images and labels as images"):
            measure_scores(["depth"], replace(case.inputs, **wrong))


def test_each_score_says_what_it_is() -> None:
    for name, score in LAYER_SCORES.items():
        assert name == score.name
        assert all((score.what, score.source, score.cost, score.measure.__doc__))
        assert score.direction in ("high", "low")
    assert list(LAYER_SCORES)[-3:] == ["random", "last", "depth"]


@pytest.mark.parametrize(
    ("model", "shape"),
    [(ReusedReLU, (1, 28, 28)), (Functional, (2, 24, 28)), (Residual, (1, 9, 11)), (None, (1, 28, 28))],
    ids=["reused", "functional", "residual", "lipschitz"],
)
def test_all_run_on_any_network_and_leave_it_as_it_was(
    model: type[nn.Module] | None, shape: tuple[int, ...], digits: tuple[ImageSet, ImageSet]
) -> None:
    torch.manual_seed(0)
    classifier = Classifier(lipschitz_model(digits[0]) if model is None else model())
    images = torch.rand(12, *shape)
    labels = classifier.logits(images).argmax(dim=1)
    adversarial = images.flip(0)
    labels[0] = (labels[0] + 1) % 3
    layers = tuple(find_layers(classifier, images))
    inputs = ScoreInputs(
        classifier, layers, images, labels, adversarial, (images, labels), THREAT, 0, np.zeros(len(layers))
    )
    before, state = classifier.state_sha256(), torch.get_rng_state()
    turned = bool((classifier.logits(adversarial).argmax(dim=1) != labels).any())
    for found in measure_scores(LAYER_SCORES, inputs):
        if found.name == "path_alignment" and found.error is not None:
            assert not turned or "turns" in found.error
            continue
        assert found.error is None, f"{found.name}: {found.error}"
        assert len(found.values) == len(layers)
        assert all(value is not None for value in found.values) or found.name == "latent_margin", found.name
    assert classifier.state_sha256() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())
    assert not any(module._forward_hooks for module in classifier.model.modules())
    again = [score.values for score in measure_scores(["jacobian_norm", "mlp_probe"], inputs)]
    assert again == [score.values for score in measure_scores(["jacobian_norm", "mlp_probe"], inputs)]
