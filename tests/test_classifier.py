from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from interpretgan import GANConfig, InterpretGAN
from interpretgan.classifier import Classifier
from interpretgan.errors import ImageError, LabelError, ModelError
from interpretgan.torch_state import plain_torch
from tests.networks import Careless, Residual


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_comes_back_untouched(fail: bool) -> None:
    model = Careless()
    model.train()
    model.fail = fail
    model.fc.bias.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    classifier = Classifier(model)
    if fail:
        with pytest.raises(ModelError, match="inside the model"):
            classifier.logits(torch.rand(2, 1, 3, 3))
    else:
        classifier.logits(torch.rand(2, 1, 3, 3, generator=torch.Generator()))
        assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.fc.training
    assert model.fc.weight.requires_grad
    assert not model.fc.bias.requires_grad
    assert torch.equal(model.fc.weight.grad, torch.ones_like(model.fc.weight))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("given", [False, True])
def test_convolutions_run_in_full_precision_whatever_torch_is_set_to(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", given)
    model, seen = nn.Linear(3, 2), list[bool]()
    model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    classifier = Classifier(nn.Sequential(nn.Flatten(), model))
    classifier(torch.rand(2, 1, 1, 3))
    with pytest.raises(ModelError):
        classifier.logits(torch.rand(2, 1, 3, 3))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 is given


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="has no such name before torch 2.9")
@pytest.mark.parametrize("given", ["ieee", "tf32"])
def test_convolutions_run_in_full_precision_whatever_the_new_name_is_set_to(given: str) -> None:
    backends: Any = torch.backends
    conv, seen, model = backends.cudnn.conv, list[str](), nn.Linear(3, 2)
    model.register_forward_hook(lambda *_: seen.append(conv.fp32_precision))
    backends.fp32_precision = given
    try:
        before = conv.fp32_precision
        Classifier(nn.Sequential(nn.Flatten(), model))(torch.rand(2, 1, 1, 3))
        assert conv.fp32_precision == before
    finally:
        backends.fp32_precision = "none"
    assert seen == ["ieee"]


def test_buffers_are_given_back_rebound_or_not_and_untouched_ones_not_written() -> None:
    class Rebinds(Careless):
        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            logits: Tensor = self.fc(x.flatten(1))
            return logits

    model = Rebinds()
    own = model.calls
    Classifier(model).logits(torch.rand(2, 1, 3, 3))
    assert model.calls is own
    assert float(own) == 0
    residual = Residual().eval()
    loss = residual(torch.rand(2, 1, 9, 11)).sum()
    Classifier(residual).logits(torch.rand(2, 1, 9, 11))
    loss.backward()  # would fail if a buffer that the graph needs had been written


class Merges(nn.Linear):
    """Has an adapter that its eval mode merges into the weights, as LoRA's do."""

    merged = False

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -0.1 if mode else 0.1
            self.merged = not mode
        return self


def test_what_a_models_own_eval_mode_changes_is_given_back() -> None:
    model, images = nn.Sequential(nn.Flatten(), Merges(9, 3)), torch.rand(2, 1, 3, 3)
    before = copy.deepcopy(model.state_dict())
    found = Classifier(model).logits(images)
    inner = model[1]
    assert isinstance(inner, Merges)
    assert inner.training
    assert not inner.merged
    assert torch.equal(inner.weight, before["1.weight"])
    torch.testing.assert_close(found, model.eval()(images))


class Trains(nn.Sequential):
    """Has a method that trains, of torch's own name."""

    epochs = 0

    def train(self, mode: Any = (1, 2)) -> Self:
        self.epochs += mode if isinstance(mode, bool) and self.epochs < 0 else len(mode)
        return self


def test_a_method_called_train_that_trains_is_told_and_not_called_again() -> None:
    model = Trains(nn.Flatten(), nn.Linear(9, 3))
    with pytest.raises(ModelError, match=r"eval mode, got TypeError: .*; give its own methods train and eval other"):
        Classifier(model).logits(torch.rand(2, 1, 3, 3))
    model.epochs = -5
    Classifier(model).logits(torch.rand(2, 1, 3, 3))
    assert model.epochs == -5
    assert all(module.training for module in model.modules())


def test_a_model_that_cannot_take_the_images_is_told_in_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        Classifier(Residual()).logits(torch.rand(2, 3, 9, 11))
    assert "expected a model that takes images [2, 3, 9, 11], got RuntimeError" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_norm_runs_in_eval_mode_and_keeps_its_statistics() -> None:
    model = Residual().train()
    images = torch.rand(3, 1, 9, 11)
    together = Classifier(model).logits(images)
    alone = torch.cat([Classifier(model).logits(image[None]) for image in images])
    torch.testing.assert_close(together, alone)  # in train mode each would depend on the batch
    assert model.training


def test_normalisation_is_applied_once_per_channel() -> None:
    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

    images = torch.rand(4, 3, 5, 6)
    logits = Classifier(Means(), mean=(0.1, 0.2, 0.3), std=(0.25, 0.5, 1.0)).logits(images)
    expected = (images.mean(dim=(2, 3)) - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.25, 0.5, 1.0])
    torch.testing.assert_close(logits, expected)


def test_after_it_was_exported_it_classifies_as_before() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 4))
    classifier, images = Classifier(network, mean=(0.31, 0.32, 0.33), std=(0.21, 0.22, 0.23)), torch.rand(2, 3, 8, 8)
    torch.export.export(classifier, (images,))
    assert classifier.logits(images).shape == (2, 4)


def test_called_as_a_module_it_gives_gradients_and_gives_the_model_back() -> None:
    """What attribution methods do: a forward pass, and the gradient of a class at the image."""
    model = Residual().train()
    before, classifier = copy.deepcopy(model.state_dict()), Classifier(model, mean=(0.3,), std=(0.5,))
    images = torch.rand(3, 1, 9, 11, requires_grad=True)
    (gradient,) = torch.autograd.grad(classifier(images)[:, 1].sum(), images)
    assert gradient.flatten(1).abs().sum(dim=1).min() > 0
    torch.testing.assert_close(classifier(images), classifier.logits(images))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_attack_libraries_take_it_as_it_is() -> None:
    from foolbox.attacks.fast_gradient_method import LinfFastGradientAttack
    from foolbox.models.pytorch import PyTorchModel

    classifier, images = Classifier(Residual()), torch.rand(4, 1, 9, 11)
    labels = classifier.logits(images).argmax(dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = PyTorchModel(classifier, bounds=classifier.bounds)
    _, found, _ = LinfFastGradientAttack()(wrapped, images, labels, epsilons=0.1)
    assert 0 < float((found - images).abs().max()) <= 0.1 + 1e-6
    assert classifier.model.training


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda classifier: pickle.loads(pickle.dumps(classifier))])  # noqa: S301  # our own
def test_copies_and_pickles_are_the_same_classifier(copied: Callable[[Classifier], Classifier]) -> None:
    torch.manual_seed(0)
    classifier, images = Classifier(Residual(), bounds=(-1, 1), mean=(0.2,), std=(0.5,)), torch.rand(2, 1, 9, 11)
    other = copied(classifier)
    assert other.model is not classifier.model
    assert (other.identity(), other.state_sha256()) == (classifier.identity(), classifier.state_sha256())
    assert torch.equal(other.logits(images), classifier.logits(images))


def test_the_identity_tells_networks_and_pixels_apart_and_not_weights() -> None:
    same = [Classifier(Residual()), Classifier(Residual())]
    others = [Classifier(Careless()), Classifier(Residual(), bounds=(-1, 1)), Classifier(Residual(), std=(0.5,))]
    assert same[0].identity() == same[1].identity()
    assert all(other.identity() != same[0].identity() for other in others)


def test_labels_are_checked_against_images_and_logits() -> None:
    classifier, images = Classifier(Careless()), torch.rand(2, 1, 3, 3)
    checked = classifier.check_labels(torch.tensor([3, 0], dtype=torch.int32), images)
    assert checked.dtype == torch.int64
    assert checked.tolist() == [3, 0]
    assert classifier.check_labels(torch.tensor([3, 0], dtype=torch.uint16), images).tolist() == [3, 0]
    for labels in ([3, 0], torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([0, 4]), torch.tensor([-1, 0])):
        with pytest.raises(LabelError):
            classifier.check_labels(labels, images)  # type: ignore[arg-type]  # a list is one of the mistakes


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 3, 3), 255.0), "expected pixels within the bounds [0, 1], got [255, 255]; scale the images"),
        (torch.full((2, 1, 3, 3), float("nan")), "expected finite pixels, got 18 NaN or infinite"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 3, 3), "[N, C, H, W]"),
        (torch.zeros(0, 1, 3, 3), "N >= 1"),
        (
            torch.rand(2, 1, 3, 3).to_sparse(),
            "expected a dense tensor of images, got torch.sparse_coo; call to_dense()",
        ),
    ],
)
def test_bad_images_are_refused_in_one_line(images: Tensor, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        Classifier(Careless()).logits(images)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_another_precision_take_the_same_images(dtype: torch.dtype) -> None:
    model = Careless()
    images = torch.rand(4, 1, 3, 3)
    expected = Classifier(model).logits(images)
    logits = Classifier(model.to(dtype)).logits(images)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_weight_of_another_precision_does_not_decide_for_the_images(dtype: torch.dtype) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((1,), 2, dtype=dtype))
            self.fc = nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x.flatten(1)) * self.scale.float()
            return logits

    model, images = Scaled(), torch.rand(4, 1, 3, 3)
    assert torch.equal(Classifier(model).logits(images), model(images).detach())


def test_libraries_that_switch_modes_leave_the_users_model_alone() -> None:
    model = Views()
    classifier = Classifier(model).eval()  # as an attack library calls it
    assert model.training
    assert not classifier.train().training


class Views(nn.Module):
    """Begins with a `view`, which fails on images whose channels lie last in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(3 * 8 * 8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.hidden(x.view(len(x), -1))))
        return logits


def test_a_model_that_begins_with_a_view_takes_images_of_any_layout() -> None:
    classifier, images = Classifier(Views()), torch.rand(6, 8, 8, 3).permute(0, 3, 1, 2)
    assert torch.equal(classifier.logits(images), classifier.logits(images.contiguous()))
    config = GANConfig(steps=1, images_per_layer=2, width=8, blocks=1, precision="fp32")
    InterpretGAN(classifier, config=config).fit(images)  # what it draws in colour has another layout, too


class Meta(Tensor):
    """A tensor of another library."""


def test_tensors_of_other_libraries_become_plain_ones() -> None:
    classifier, images = Classifier(Careless()), torch.rand(4, 1, 3, 3)
    checked = classifier.check_images(images.clone().as_subclass(Meta).requires_grad_())
    labels = classifier.check_labels(torch.zeros(4, dtype=torch.int64).as_subclass(Meta), checked)
    assert type(checked) is type(labels) is Tensor
    assert not checked.requires_grad
    assert torch.equal(checked, images)


def test_rounding_does_not_trip_the_range_check() -> None:
    images = (torch.arange(9.0).view(1, 1, 3, 3) / 8 * 255).mul(1 / 255) * (1 + 1e-7)
    Classifier(Careless()).logits(images)


class Returns(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> object:
        return self.value


def test_logits_of_one_image_may_nearly_sum_to_one() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5005]])
    assert torch.equal(Classifier(Returns(logits)).logits(torch.zeros(1, 1, 3, 3)), logits)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((2, 4), 0.25), "got probabilities"),
        (torch.tensor([[1.0, 2, 4]] * 2, dtype=torch.bfloat16).softmax(dim=1), "got probabilities"),
        (torch.full((2, 3), 1 / 3).half().float(), "got probabilities"),
        ((torch.zeros(2, 4),), "got a tuple"),
        (torch.zeros(2, 4, 1), "got (2, 4, 1)"),
        (torch.zeros(2, 1), "K >= 2"),
        (torch.full((2, 3), float("inf")), "expected finite logits, got 6"),
        (torch.tensor([[1.0, 2, -torch.inf]] * 2), "-inf for 1 of the classes in every row; mask them with a finite"),
        (torch.tensor([[1.0, 2, -torch.inf], [1.0, 2, 3]]), "expected finite logits, got 1 NaN or infinite"),
        (torch.eye(2).long(), "expected floating point logits, got torch.int64 of shape (2, 2); return the scores"),
        (torch.eye(2).bool(), "expected floating point logits, got torch.bool"),
        (torch.eye(2).to(torch.complex64), "expected floating point logits, got torch.complex64"),
    ],
)
def test_models_that_do_not_return_logits_are_refused(value: object, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        Classifier(Returns(value)).logits(torch.zeros(2, 1, 3, 3))
    assert message in str(caught.value)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ImageError, match="low < high"):
        Classifier(Careless(), bounds=(1, 0))
    with pytest.raises(ImageError, match="std > 0"):
        Classifier(Careless(), std=(0.0,))
    with pytest.raises(ImageError, match="low < high"):
        Classifier(Careless(), bounds=(0, float("inf")))
    with pytest.raises(ImageError, match="images of 3 channels, as std has"):
        Classifier(Careless(), std=(1, 1, 1)).logits(torch.rand(2, 1, 3, 3))
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module, got a str"):
        Classifier("model.pt")  # type: ignore[arg-type]  # the mistake under test
    wrong: list[Any] = [1, "01", (0,), (0, 0.5, 1), None]
    for bounds in wrong:
        with pytest.raises(ImageError, match="low < high, got"):
            Classifier(Careless(), bounds)
    for values in (*wrong[:2], 0.5, (None,), torch.tensor(0.5)):
        with pytest.raises(ImageError, match=r"a finite mean in every channel, got .*; pass e\.g\."):
            Classifier(Careless(), mean=values)
        with pytest.raises(ImageError, match="std > 0 in every channel, got"):
            Classifier(Careless(), std=values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "got lazy layers without any; run one batch of images"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d(affine=False), nn.Flatten()), "got lazy layers without any"),
        (lambda: nn.Linear(9, 4, device="meta"), 'got some on the meta device; call to_empty(device="cpu")'),
        (lambda: nn.BatchNorm2d(1, affine=False, device="meta"), "got some on the meta device"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")  # of torch, at each of them
def test_weights_that_have_no_values_yet_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match="expected a model whose weights have values") as caught:
        Classifier(make()).logits(torch.rand(2, 1, 3, 3))
    assert message in str(caught.value)
    with pytest.raises(ModelError, match="expected a model whose weights have values"):
        Classifier(make()).answers(torch.rand(2, 1, 3, 3))


def test_a_model_that_needs_more_than_images_is_told_how_to_get_it() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, meta: Tensor) -> Tensor:
            return x.flatten(1) + meta

    class Heir(Two):
        pass

    for model in (Two(), Heir()):
        with pytest.raises(ModelError, match="'meta'; it needs more than images: wrap it in a module"):
            Classifier(model).logits(torch.rand(2, 1, 3, 3))


def test_one_mean_per_channel_is_asked_for_before_the_model_runs() -> None:
    with pytest.raises(ImageError, match="images of 2 channels, as mean has, got 1 channels; pass one mean per image"):
        Classifier(Careless(), mean=(0.1, 0.2)).answers(torch.rand(2, 1, 3, 3))


def test_the_answers_of_a_model_change_with_what_it_computes_and_not_with_what_it_is_called() -> None:
    images = torch.rand(2, 1, 3, 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
    answers = Classifier(model).answers(images)
    assert len(answers) == 8
    assert Classifier(copy.deepcopy(model)).answers(images) == answers
    model[2] = nn.Hardsigmoid()  # no weight of it changes
    assert Classifier(model).answers(images) != pytest.approx(answers, abs=1e-2)


def test_torch_is_plain_inside_and_as_the_caller_set_it_in_the_model_and_outside() -> None:
    class Makes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x.flatten(1)) + torch.ones(4)
            assert logits.dtype == torch.float64
            return logits

    torch.set_default_dtype(torch.float64)
    try:
        classifier = Classifier(Makes())
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), plain_torch():
            assert torch.get_default_dtype() == torch.float32
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert classifier.logits(torch.rand(2, 1, 3, 3)).dtype == torch.float64
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_that_fails_in_mixed_precision_runs_in_full_and_says_so_once() -> None:
    class Numpy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.fc(x.flatten(1)).detach().numpy()) + 0 * x.sum()

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(9, 4)

    classifier, images = Classifier(Numpy()), torch.rand(2, 1, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.warns(RuntimeWarning, match="Numpy runs in full precision, as it fails in mixed"):
            first = classifier(images)
        assert torch.equal(classifier(images), first)
    assert torch.equal(classifier(images), first)


@pytest.mark.parametrize(
    ("bounds", "mean", "std", "usable"),
    [
        ((0, 1), (0.485,), (0.229,), True),
        ((0, 1), (0,), (1 / 255,), True),  # to pixels in 255ths
        ((-1, 1), (0,), (1,), True),
        ((0, 255), (123.675,), (58.395,), True),
        ((0, 1), (123.675,), None, False),
        ((0, 1), None, (58.395,), False),
        ((0, 255), (0.485,), (0.229,), False),
    ],
)
def test_mean_and_std_are_in_the_units_of_the_bounds(
    bounds: tuple[float, float], mean: tuple[float] | None, std: tuple[float] | None, usable: bool
) -> None:
    with nullcontext() if usable else pytest.raises(ImageError, match="units of the bounds"):
        Classifier(nn.Flatten(), bounds, mean, std)
