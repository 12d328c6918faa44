"""Image sets, and the one way in which everything that a user hands in becomes a source of images."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from interpretgan.data import (
    ImageSet,
    ImagesOnDevice,
    as_image_set,
    as_image_sets,
    as_source,
    content_of,
    describe,
    load_data,
    near,
    shared_images,
)
from interpretgan.errors import DataError, ImageError, InputError, LabelError

Example = tuple[Any, Any]


class Pairs(Dataset[Example]):
    """A data set of whatever pairs it is given."""

    def __init__(self, *pairs: Example) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        return self.pairs[index]


@pytest.fixture
def examples() -> tuple[Tensor, Tensor]:
    images, labels = load_data("digits", "test").batch(range(7))
    return images, labels


# --- image sets --------------------------------------------------------------------------------------------------


def test_batch_is_float_in_unit_range_and_writable() -> None:
    data = load_data("digits", "test")
    for indices in (slice(0, 3), [0, 1, 2], torch.arange(3), np.arange(3)):
        images, labels = data.batch(indices)
        assert images.shape == (3, 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.min() >= 0
        assert images.max() <= 1
        assert torch.equal((images * 255).round().to(torch.uint8), torch.from_numpy(np.array(data.images[:3])))
        images.zero_()
    assert data.images[:3].any()


def test_a_mask_chooses_examples_and_what_is_no_number_is_refused() -> None:
    images = make(numbers(np.float32), labels=(0, 1, 1, 0))
    for mask in (images.labels == 1, torch.from_numpy(images.labels) == 1):
        assert torch.equal(images.batch(mask)[0], images.batch([1, 2])[0])
    assert len(images.batch([])[0]) == 0
    wrong: Any
    for wrong in ([0.7, 1.2], [True, False], [4], 1, ["a"], [[0], [1, 2]], torch.zeros(2, requires_grad=True)):
        with pytest.raises(DataError, match="numbers of examples from 0 to 3"):
            images.batch(wrong)


def test_batches_cover_each_example_once_in_order_or_shuffled() -> None:
    data = load_data("digits", "test")
    in_order = torch.cat([labels for _, labels in data.batches(64)])
    assert torch.equal(in_order, torch.from_numpy(data.labels))
    shuffled = [torch.cat([y for _, y in data.batches(64, generator=torch.Generator().manual_seed(3))]) for _ in "ab"]
    assert torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled[0], in_order)
    assert torch.equal(shuffled[0].sort().values, in_order.sort().values)


def test_head_is_a_prefix_with_its_own_hash() -> None:
    data = load_data("digits", "test")
    head = data.head(20)
    assert len(head) == 20
    assert np.array_equal(head.images, data.images[:20])
    assert head.sha256 != data.sha256
    assert data.head(10_000) is data
    with pytest.raises(DataError, match="at least one"):
        data.head(0)


def numbers(dtype: type, shape: tuple[int, ...] = (4, 2, 3, 5), scale: float = 1.0) -> Any:
    values = np.random.default_rng(0).random(shape) * scale
    values.flat[:2] = 0, scale
    return values.astype(dtype)


def make(images: Any, labels: Any = (0, 1, 1, 0), **settings: Any) -> ImageSet:
    return ImageSet("mine", "test", images, np.asarray(labels), ("a", "b"), **settings)


def test_floats_are_not_scaled_again() -> None:
    images = numbers(np.float32)
    assert torch.equal(make(images).batch(range(4))[0], torch.from_numpy(images))
    wide = make(2 * images - 1, bounds=(-1.0, 1.0))
    assert torch.equal(wide.batch([1])[0], torch.from_numpy(2 * images[1:2] - 1))
    torch.testing.assert_close(wide.scaled((0.0, 1.0)).batch(range(4))[0], torch.from_numpy(images))
    bytes_ = numbers(np.uint8, scale=255)
    as_floats = make(bytes_.astype(np.float32) / 255)
    for bounds in ((0.0, 1.0), (-2.0, 3.0)):
        torch.testing.assert_close(
            make(bytes_).scaled(bounds).batch(range(4))[0], as_floats.scaled(bounds).batch(range(4))[0]
        )


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (numbers(np.float32, scale=255), (0, 1, 1, 0), ImageError, r"within the bounds \[0, 1\], got \[0, 255\]"),
        (np.full((4, 2, 3, 5), np.nan, np.float32), (0, 1, 1, 0), ImageError, "within the bounds"),
        (numbers(np.float64), (0, 1, 1, 0), ImageError, "got float64"),
        (numbers(np.float32, (4, 3, 5)), (0, 1, 1, 0), ImageError, r"\[N, C, H, W\]"),
        (numbers(np.float32), (0, 1, 1), LabelError, "expected 4 integer labels"),
        (numbers(np.float32), (0.0, 1.0, 1.0, 0.0), LabelError, "got float64"),
        (numbers(np.float32), (0, 1, 2, 0), LabelError, "labels from 0 to 1"),
    ],
)
def test_sets_that_make_no_sense_are_refused(images: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(images, labels)


def test_the_hash_is_of_the_content_and_made_where_none_is_given() -> None:
    one = make(numbers(np.uint8, scale=255))
    assert len(one.sha256) == 64
    assert make(numbers(np.uint8, scale=255)).sha256 == one.sha256 != make(one.images, (1, 1, 1, 0)).sha256
    assert make(one.images, sha256="known").sha256 == "known"
    assert describe(one)["sha256"] == one.sha256
    assert describe(torch.rand(1)) == {}


# --- whatever a user hands in ------------------------------------------------------------------------------------


LABELS: dict[str, Callable[[Tensor], Any]] = {
    "int": int,
    "0-d tensor": lambda label: label,
    "numpy": lambda label: np.int32(int(label)),
}


@pytest.mark.parametrize("kind", ["pair", "list", "TensorDataset", "ImageSet", "source", *LABELS])
def test_every_kind_of_data_gives_the_same_batches(kind: str, examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    kinds: dict[str, Callable[[], Any]] = {
        "pair": lambda: (images, labels),
        "list": lambda: [images, labels],
        "TensorDataset": lambda: TensorDataset(images, labels),
        "ImageSet": lambda: load_data("digits", "test").head(7),
        "source": lambda: as_source(images, labels, (0, 1)),
    }
    data = kinds[kind]() if kind in kinds else Pairs(*((x, LABELS[kind](y)) for x, y in zip(*examples, strict=True)))
    source, chosen = as_source(data, None, (0.0, 1.0), labelled=True), torch.tensor([5, 0, 3])
    x, y = source.batch(chosen)
    assert len(source) == 7
    torch.testing.assert_close(x, images[chosen])
    assert torch.equal(y, labels[chosen])
    assert y.dtype == torch.int64
    as_set = as_image_set(data, "train")
    assert as_set.shape == (1, 28, 28)
    assert torch.equal(as_set.batch(chosen)[1], labels[chosen])
    torch.testing.assert_close(as_set.batch(chosen)[0], images[chosen])


class Records:
    """Examples as dictionaries, with a `batch` of its own, as public data sets have."""

    def __init__(self, images: Tensor, labels: Tensor, names: tuple[str, str]) -> None:
        self.images, self.labels, self.names = images, labels, names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"id": torch.tensor(0), **dict(zip(self.names, (self.images[index], self.labels[index]), strict=True))}

    def batch(self, size: int) -> Records:
        raise AssertionError


@pytest.mark.parametrize("names", [("image", "label"), ("img", "labels"), ("pixel_values", "labels")])
def test_examples_may_be_dictionaries(names: tuple[str, str], examples: tuple[Tensor, Tensor]) -> None:
    data: Any = Records(*examples, names)
    images, labels = as_source(data, None, (0, 1), labelled=True).batch(torch.arange(7))
    assert torch.equal(images, examples[0])
    assert torch.equal(labels, examples[1])
    others: Any = Records(*examples, ("picture", names[1]))
    with pytest.raises(ImageError, match="dict in example 0"):
        as_source(others, None, (0, 1)).batch(torch.arange(1))
    no_labels: Any = Records(*examples, (names[0], "class"))
    with pytest.raises(LabelError, match="no label"):
        as_source(no_labels, None, (0, 1), labelled=True).batch(torch.arange(1))


def test_labels_may_be_missing_where_only_images_are_needed(examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    unlabelled: list[Any] = [images, TensorDataset(images), [(image,) for image in images], list(images)]
    for data in unlabelled:
        assert torch.equal(as_source(data, None, (0, 1)).batch(torch.arange(7))[0], images)
        with pytest.raises(LabelError, match=r"got none|got no label"):
            as_source(data, None, (0, 1), labelled=True).batch(torch.arange(7))
    with pytest.raises(LabelError, match=r"labels beside a tuple"):
        as_source((images, labels), labels, (0, 1))
    with pytest.raises(LabelError, match=r"labels \[7\] with a tensor of images, got torch.int64 of shape \(3,\)"):
        as_source(images, labels[:3], (0, 1))


def test_classes_are_those_of_the_data_or_the_numbers_that_occur(examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    assert as_image_set(examples, "test").classes == tuple(str(number) for number in range(int(labels.max()) + 1))
    assert as_image_set(examples, "test", classes="abcdefghijkl").classes == tuple("abcdefghijkl")
    named = Pairs(*zip(images, labels.tolist(), strict=True))
    named.classes = list("ABCDEFGHIJ")  # type: ignore[attr-defined]  # as torchvision's data sets have it
    assert as_image_set(named, "test").classes == tuple("ABCDEFGHIJ")
    scaled = as_image_set((2 * images - 1, labels), "train", bounds=(-1.0, 1.0))
    assert (scaled.bounds, scaled.split) == ((-1.0, 1.0), "train")
    torch.testing.assert_close(scaled.scaled((0.0, 1.0)).batch([2])[0], images[2:3])


def with_classes(classes: Any) -> Pairs:
    pairs = Pairs((torch.ones(1, 4, 4), 0), (torch.ones(1, 4, 4), 1))
    pairs.classes = classes  # type: ignore[attr-defined]  # as torchvision's data sets have it
    return pairs


@pytest.mark.parametrize("classes", [np.array(["a", "b"]), ("a", "b"), np.array(["a", "b"], dtype=object)])
def test_names_of_classes_may_be_an_array(classes: Any) -> None:
    assert as_image_set(with_classes(classes), "train").classes == ("a", "b")
    assert as_image_set(with_classes(torch.tensor([3, 5])), "train").classes == ("3", "5")


@pytest.mark.parametrize("classes", [2, "ab", {"a": 0, "b": 1}, np.array(2), np.ones((2, 2)), {"a", "b"}])
def test_names_of_classes_that_are_none_are_refused(classes: Any) -> None:
    with pytest.raises(DataError, match=r"data\.classes to be a list with the name of each class, got"):
        as_image_set(with_classes(classes), "train")


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (["a", "b", "c"], ["a", "c"], "test images of the classes a, b, c, as in training, got a, c;"),
        (["a", "c"], ["a", "b", "c"], "test images of the classes a, c, as in training, got a, b, c;"),
        (["a", "b"], ["b", "a"], "got b, a;"),
        (["0", "1", "2"], ["0", "2"], "got 0, 2;"),
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], [0, 1], None),
        ([0, 1], ["a", "b"], None),
        (["a", "b"], None, None),
        (None, ["a", "b"], None),
    ],
)
def test_names_of_classes_that_disagree_are_refused(train: Any, test: Any, told: str | None) -> None:
    with nullcontext() if told is None else pytest.raises(DataError, match=told):
        sets = as_image_sets(with_classes(train), with_classes(test), bounds=(0.0, 1.0))
        assert sets[0].classes == sets[1].classes == tuple(map(str, train or range(2)))


def test_what_is_in_memory_is_known_by_its_content(examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    one, other = (as_source(x, labels, (0, 1)) for x in (images, images.flip(0)))
    assert content_of(one) != content_of(other)
    assert content_of(as_source(Pairs((images[0], 1)), None, (0, 1))) == "1"


@pytest.mark.parametrize("kind", ["bfloat16", "requires_grad"])
def test_tensors_that_numpy_does_not_know_are_images_too(kind: str, examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    images = images.bfloat16() if kind == "bfloat16" else images.clone().requires_grad_()
    plain = images.detach().float()
    assert content_of(as_source(images, labels, (0, 1))) == content_of(as_source(plain, labels, (0, 1)))
    assert not as_source(images, labels, (0, 1)).batch(torch.arange(2))[0].requires_grad


class Meta(Tensor):
    """A tensor of another library."""


class Own:
    """An `ImageSource` of the user's own."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.labels[indices]


@pytest.mark.parametrize("kind", ["tensors", "dataset", "source"])
def test_batches_are_plain_tensors_without_gradient(kind: str, examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples[0].clone().as_subclass(Meta).requires_grad_(), examples[1].as_subclass(Meta)
    given: dict[str, Any] = {
        "tensors": (images, labels),
        "dataset": Pairs(*zip(images, map(int, labels), strict=True)),
        "source": Own(images, labels),
    }
    batch = as_source(given[kind], None, (0, 1)).batch(torch.arange(3))
    for found, wanted in zip(batch, examples, strict=True):
        assert type(found) is Tensor
        assert not found.requires_grad
        assert torch.equal(found, wanted[:3])


IMAGE, PICTURE = torch.rand(1, 4, 4), Image.new("L", (4, 4))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Pairs((PICTURE, 0)), ImageError, "got an Image in example 0; add a ToTensor transform"),
        (Pairs((IMAGE.numpy(), 0)), ImageError, "got float32 of shape .* in example 0; add a ToTensor"),
        (Pairs((255 * IMAGE.byte(), 0)), ImageError, "got torch.uint8"),
        (Pairs((IMAGE, 0), (IMAGE[:, :2], 1)), ImageError, r"images of one shape, got \(1, 2, 4\) and \(1, 4, 4\)"),
        (Pairs((IMAGE, 0.5)), LabelError, "a whole number, got a float in example 0"),
        (Pairs((IMAGE, torch.tensor(0.5))), LabelError, r"got torch.float32 of shape \(\) in example 0"),
        (Pairs(({"image": IMAGE}, 0)), ImageError, "got a dict"),
        (Pairs(), DataError, "an empty data set"),
        (DataLoader(Pairs((IMAGE, 0))), DataError, "got a DataLoader; pass loader.dataset"),
        (np.zeros((2, 1, 4, 4), np.float32), DataError, "torch.from_numpy"),
        ("cifar10", DataError, "a Dataset of"),
        (IMAGE, ImageError, r"images \[N, C, H, W\]"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        as_source(data, None, (0, 1)).batch(torch.arange(operator.length_hint(data)))
    assert "\n" not in str(caught.value)


class Broken(Dataset[Example]):
    """A data set whose second example cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Example:
        if index == 1:
            raise OSError("no such file")
        return torch.rand(1, 6, 6), 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.rand(4, 6, 6, 3), torch.arange(4)), "channels first"),
        ((torch.rand(4, 1, 6, 6), torch.arange(4) + 1), "labels from 0, got labels from 1 to 4"),
        ((torch.rand(4, 1, 6, 6), torch.ones(4).long()), "of at least two classes, got 1 alone; add images of another"),
        ((torch.rand(4, 1, 6, 6) / 255, torch.arange(4)), "by 255 twice"),
        ((torch.rand(4, 1, 6, 6).to_sparse(), torch.arange(4)), "stack the images"),
        ((torch.rand(4, 1, 6, 6).to(torch.complex64), torch.arange(4)), "stack the images"),
        (Broken(), "example 1, which raises OSError: no such file"),
    ],
)
def test_data_that_would_be_taken_wrongly_are_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_image_set(data, "train")


def test_test_images_that_are_training_images_are_flagged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 2, 9, 7), dtype=np.uint8)
    pixels[20] = pixels[12]
    pixels[20, 1, 0, 0] ^= 1  # a pixel apart from a training image

    def images(split: str, rows: range | list[int]) -> ImageSet:
        return ImageSet("own", split, pixels[list(rows)], np.zeros(len(rows), dtype=np.int64), ("a",))

    train, test = images("train", range(20)), images("test", range(20, 30))
    assert shared_images(train, test) == []
    (flag,) = shared_images(train, images("test", [19, 25, 3]))
    assert str(flag) == "2 of the 3 test images are training images too"
    assert shared_images(train, ImageSet("own", "test", pixels[:, :, :8], test.labels.repeat(3), ("a",))) == []


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_images_on_a_device_are_those_of_the_set(bounds: tuple[float, float]) -> None:
    images = load_data("digits", "test").scaled(bounds)
    copied, chosen = ImagesOnDevice(images, torch.device("cpu")), torch.tensor([5, 0, 5, 33])
    assert len(copied) == len(images)
    for own, wanted in zip(copied.batch(chosen), images.batch(chosen), strict=True):
        assert torch.equal(own, wanted)
    assert near(images, torch.device("cpu")) is images
