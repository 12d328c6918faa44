"""What a user hands in as images, brought to one interface.

Images are float32 `[N, C, H, W]` within a classifier's bounds, labels int64 `[N]`. Everywhere in this package images
may come as an `ImageSet`, a `torch.utils.data.Dataset` of (image, label), a pair of tensors, or another `ImageSource`;
where labels are not needed, also as a tensor. `as_source` takes all of these, and `as_image_set` where the number of
classes or the hash of all images is needed.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from interpretgan.data.arrays import content_hash, refuse_channels_last, refuse_scaled_twice, rows_of
from interpretgan.errors import DataError, Flag, FlagKind, ImageError, LabelError, in_a_line, kind_of
from interpretgan.torch_state import as_seed, plain

READ_AT_A_TIME = 1024  #: Images of a data set that are read at a time while it is copied.
SHARED_IMAGES = FlagKind("shared_images", "warning", "{value:,} of the {images:,} test images are training images too")
NAMED = (("image", "img", "pixel_values"), ("label", "labels"))  #: Keys of image and label in a dictionary.
LOOKED_AT = 256  #: Images, from the first, on which it is seen whether pixels were scaled twice.


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images that are read a batch at a time, so that memory does not grow with their number."""

    def __len__(self) -> int:
        """Number of images."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, C, H, W]` and labels `[n]` at int64 indices `[n]`."""


ImageData: TypeAlias = ImageSource | Dataset[Any] | tuple[Tensor, Tensor] | Tensor  #: See above.


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their true classes.

    Raises `ImageError` for images of another shape, type or range, `LabelError` for labels that do not fit.
    """

    name: str  #: Name or path that it was loaded by.
    split: str  #: `"train"` or `"test"`.
    #: `[N, C, H, W]`: uint8, 0 to 255, or float32 within `bounds`; possibly a read-only map of a file.
    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]  #: int64 `[N]`, 0 to K - 1.
    classes: tuple[str, ...]  #: Names of the K classes.
    sha256: str = ""  #: Of shape, pixels and labels. Empty: computed.
    note: str = ""  #: Which files were read and how they are encoded: to be stated beside figures.
    bounds: tuple[float, float] = (0.0, 1.0)  #: Range of the pixels that `batch` returns.
    #: Lowest and highest value in `images`, which become the bounds. `None`: 0 and 255, or `bounds` of floats.
    stored: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the arrays, and fill in what was left out."""
        images, labels = np.asanyarray(self.images), np.asarray(self.labels)
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
            expected = "images [N, C, H, W] of uint8 from 0 to 255, or of float32 within the bounds"
            raise ImageError(expected=expected, got=kind_of(images), do="convert them")
        refuse_channels_last(images)
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise LabelError(expected=f"{len(images)} integer labels", got=kind_of(labels), do="pass one per image")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            expected = f"labels from 0 to {len(self.classes) - 1}, as there are {len(self.classes)} classes"
            do = "correct the labels or the names of the classes"
            raise LabelError(expected=expected, got=f"{labels.min()} to {labels.max()}", do=do)
        low, high = stored = self.stored or ((0.0, 255.0) if images.dtype == np.uint8 else self.bounds)
        if images.dtype == np.float32 and len(images):
            least, most, slack = float(images.min()), float(images.max()), 1e-5 * (high - low)
            if not (least >= low - slack and most <= high + slack):  # NaN is not
                expected, got = f"pixels within the bounds [{low:g}, {high:g}]", f"[{least:.4g}, {most:.4g}]"
                raise ImageError(expected=expected, got=got, do="state bounds=(low, high), or scale the images")
        refuse_scaled_twice(images[:LOOKED_AT], low, high)
        sha256 = self.sha256 or content_hash(images, labels)
        filled = {"images": images, "labels": labels.astype(np.int64, copy=False), "sha256": sha256, "stored": stored}
        for name, value in filled.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor | Sequence[int] | npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """The chosen examples: float32 `[n, C, H, W]` within `bounds`, and int64 `[n]`."""
        chosen = indices if isinstance(indices, slice) else rows_of(indices, len(self))
        floats = torch.from_numpy(np.array(self.images[chosen])).to(torch.float32)  # a copy: the map is read-only
        return self.in_bounds(floats), torch.from_numpy(np.array(self.labels[chosen]))

    def in_bounds(self, floats: Tensor) -> Tensor:
        """Values as they are stored, brought within `bounds` in place."""
        assert self.stored is not None
        (least, most), (low, high) = self.stored, self.bounds
        if self.stored != self.bounds:
            floats.sub_(least).div_(most - least)
            if self.bounds != (0.0, 1.0):
                floats.mul_(high - low).add_(low).clamp_(low, high)
        return floats

    def scaled(self, bounds: tuple[float, float]) -> ImageSet:
        """The same images for a classifier that takes pixels within `bounds`."""
        return self if bounds == self.bounds else replace(self, bounds=bounds)

    def batches(self, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example once, in order or shuffled, `batch_size` >= 1 at a time (the last batch may be smaller)."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            yield self.batch(order[start : start + batch_size])

    def head(self, n: int) -> ImageSet:
        """The first `n` >= 1 examples, or all if there are fewer."""
        if n < 1:
            raise DataError(expected="at least one example", got=f"{n}", do="ask for more")
        return self if n >= len(self) else replace(self, images=self.images[:n], labels=self.labels[:n], sha256="")

    def sample(self, n: int, seed: int) -> ImageSet:
        """`n` examples that the seed draws, or all: the first may be of one class."""
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(as_seed(seed)))[:n].numpy()
        return replace(self, images=self.images[drawn], labels=self.labels[drawn], sha256="")


class TensorImages:
    """An `ImageSource` over tensors in memory: floats `[N, C, H, W]` within the bounds, and int64 `[N]` or zeros."""

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        if images.ndim != 4 or not len(images) or images.is_complex() or images.layout is not torch.strided:
            raise ImageError(expected="images [N, C, H, W] with N >= 1", got=kind_of(images), do="stack the images")
        refuse_channels_last(images)
        self.images = plain(images.float() if images.dtype is torch.bfloat16 else images)  # as numpy knows it
        self.labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else plain(labels)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at the indices."""
        return self.images[indices], self.labels[indices]

    @property
    def sha256(self) -> str:
        """See `content_hash`."""
        return content_hash(self.images.cpu().numpy(), self.labels.cpu().numpy())


class DatasetImages:
    """An `ImageSource` over a map-style data set of (image, label), or of dictionaries (`NAMED`), read one at a time.

    Images are floats `[C, H, W]` within the classifier's bounds, labels whole numbers; `labelled`: none may be missing.
    """

    def __init__(self, dataset: Dataset[Any], *, labelled: bool) -> None:
        self.dataset, self.labelled = dataset, labelled
        if not len(self):
            raise DataError(expected="at least one example", got="an empty data set", do="check its path and split")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch's class leaves it to map-style data sets

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at the indices; `ImageError` or `LabelError` for what cannot be stacked."""
        images, labels = zip(*(self._example(int(index)) for index in indices), strict=True)
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) > 1:
            got, do = f"{shapes[0]} and {shapes[1]}", "add a transform to the data set that resizes them"
            raise ImageError(expected="images of one shape", got=got, do=do)
        return torch.stack([plain(image) for image in images]), torch.tensor(labels)

    def _example(self, index: int) -> tuple[Tensor, int]:
        try:
            example = self.dataset[index]
        except Exception as error:  # the user's own code
            got, do = f"example {index}, which raises {in_a_line(error)}", "mend the data set"
            raise DataError(expected=f"{len(self)} examples", got=got, do=do) from error
        if isinstance(example, Mapping):
            image_key, label_key = (next((key for key in keys if key in example), None) for keys in NAMED)
            example = example if image_key is None else [example[key] for key in (image_key, label_key) if key]
        image, *rest = example if isinstance(example, tuple | list) and example else (example,)
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            expected = "examples (image, label) whose image is a floating point tensor [C, H, W]"
            do = "add a ToTensor transform to the data set, or convert the images"
            raise ImageError(expected=expected, got=f"{kind_of(image)} in example {index}", do=do)
        if not rest and not self.labelled:
            return image, 0
        try:
            return image, operator.index(rest[0])
        except (TypeError, IndexError) as error:
            got = f"{kind_of(rest[0]) if rest else 'no label'} in example {index}"
            expected = "examples (image, label) whose label is a whole number"
            raise LabelError(expected=expected, got=got, do="return the number of the class as the label") from error


class OwnImages:
    """An `ImageSource` of the user's own, whose batches become plain tensors without gradient."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at the indices."""
        images, labels = self.source.batch(indices)
        return plain(images), plain(labels)

    @property
    def sha256(self) -> str:
        """See `content_of`."""
        return content_of(self.source)


def as_source(
    images: ImageData, labels: Tensor | None, bounds: tuple[float, float], *, labelled: bool = False
) -> ImageSource:
    """Images as a source whose pixels are within `bounds`, whichever way they came.

    All but an `ImageSet`, which is scaled, have pixels within the bounds already. Labels, int64 `[N]`, belong to a
    tensor of images. With `labelled` true classes are needed. What can be indexed is read example by example.

    Raises:
        DataError, ImageError: Another kind of data, or a tensor of another shape.
        LabelError: Labels that are missing, of another number, or beside data that have their own.
    """
    given: Any = images
    if isinstance(given, TensorDataset):
        given = given.tensors if len(given.tensors) > 1 else given.tensors[0]
    if labels is not None and not isinstance(given, Tensor):
        got = f"labels beside {kind_of(given)}, which has its own"
        raise LabelError(expected="labels beside a tensor of images only", got=got, do="leave labels out")
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Tensor):
        given, labels = given
    if isinstance(given, Tensor):
        counted: Any = labels  # whatever a caller without type checks hands in
        if (labelled or counted is not None) and not (isinstance(counted, Tensor) and len(counted) == len(given)):
            expected, got = f"labels [{len(given)}] with a tensor of images", kind_of(counted)
            raise LabelError(expected=expected, got=got, do="pass them right after the images")
        source = TensorImages(given, labels)
        refuse_scaled_twice(source.images[:LOOKED_AT], *bounds)
        return source
    if isinstance(given, ImageSet):
        return given.scaled(bounds)
    map_style = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    if isinstance(given, ImageSource) and not map_style:  # a data set's own `batch` may do anything
        return OwnImages(given)
    if map_style and not isinstance(given, np.ndarray | str | Mapping | tuple | IterableDataset):
        return DatasetImages(given, labelled=labelled)
    expected = "an ImageSet, a Dataset of (image, label), a pair of tensors (images, labels), or a tensor of images"
    do = "pass loader.dataset of a DataLoader, and torch.from_numpy(...) of arrays"
    raise DataError(expected=expected, got=kind_of(given), do=do)


def as_image_set(
    data: ImageData, split: str, *, bounds: tuple[float, float] = (0.0, 1.0), classes: Sequence[str] | None = None
) -> ImageSet:
    """Labelled images as an `ImageSet` whose pixels are within `bounds`, whichever way they came; held in memory.

    The split is for the record. Without names of the classes these are `data.classes`, else the numbers that occur.
    What does not fit raises as `as_source` and `ImageSet` do.
    """
    if isinstance(data, ImageSet):
        return data.scaled(bounds)
    source = as_source(data, None, bounds, labelled=True)
    firsts = range(0, len(source), READ_AT_A_TIME)
    parts = (source.batch(torch.arange(first, min(first + READ_AT_A_TIME, len(source)))) for first in firsts)
    images, labels = zip(*((x.detach().cpu().float().numpy(), y.cpu().numpy()) for x, y in parts), strict=True)
    pixels, numbers = np.concatenate(images), np.concatenate(labels)
    known, least, most = classes or _own_classes(data), int(numbers.min()), int(numbers.max())
    if not known and least > 0:
        expected, got, do = "labels from 0", f"labels from {least} to {most}", "subtract the first"
        if least == most:
            expected, got, do = f"{expected} of at least two classes", f"{least} alone", "add images of another class"
        raise LabelError(expected=expected, got=got, do=f"{do}, or name the classes in data.classes")
    names = tuple(map(str, known or range(most + 1)))
    return ImageSet(type(data).__name__, split, pixels, numbers, names, bounds=bounds)


def as_image_sets(train: ImageData, test: ImageData, *, bounds: tuple[float, float]) -> tuple[ImageSet, ImageSet]:
    """Training and test images, see `as_image_set`; test images without names of the classes have those of training.

    A `DataError` where both have names and these disagree. Test images may have the first of the classes alone, and
    plain numbers from 0 may stand for as many other names.
    """
    wanted, found = _own_classes(train), _own_classes(test)
    numbers = tuple(map(str, range(len(wanted))))
    renamed = len(wanted) == len(found) and numbers in (wanted, found)
    if wanted and wanted[: len(found)] != found and not renamed:
        expected = f"test images of the classes {', '.join(wanted):.200}, as in training"
        raise DataError(expected=expected, got=f"{', '.join(found):.200}", do="load both splits of one set")
    train = as_image_set(train, "train", bounds=bounds)
    return train, as_image_set(test, "test", bounds=bounds, classes=train.classes)


def _own_classes(data: object) -> tuple[str, ...]:
    """The names in `data.classes`, a list or an array of them; none where there is no such, else a `DataError`."""
    given: Any = getattr(data, "classes", None)
    names = given.tolist() if hasattr(given, "tolist") else given
    if names is None:
        return ()
    if not isinstance(names, Sequence) or isinstance(names, str) or any(isinstance(name, list) for name in names):
        expected, do = "data.classes to be a list with the name of each class", "pass the names in the order of labels"
        raise DataError(expected=expected, got=kind_of(given), do=do)
    return tuple(map(str, names))


def class_order(
    classes: Sequence[str], wanted: Sequence[str], ids: Sequence[str] = ()
) -> tuple[list[int] | None, str | None]:
    """Where each class stands among those of a model, by its name there, one of its synonyms (`a, b`) or its id.

    The second is the first class that the model does not have, or has twice; then there is no order.
    """
    places: list[dict[str, list[int]]] = [{}, {}, {}]
    for number, name in enumerate(wanted):
        for known, words in zip(places, ([name], name.split(","), ids[number : number + 1]), strict=True):
            for word in {_spelled(word) for word in words}:
                known.setdefault(word, []).append(number)
    order = []
    for name in classes:
        found = next((known[key] for known in places if (key := _spelled(name)) in known), [])
        if len(found) != 1 or found[0] in order:
            return None, name
        order += found
    return order, None


def _spelled(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def renumbered(images: ImageSet, order: Sequence[int], names: Sequence[str]) -> ImageSet:
    """The same images, class k of which is class `order[k]` of these names; its own names are kept."""
    if [*order] == [*range(len(names))]:
        return images
    named = [name.partition(",")[0] for name in names]
    for old, new in enumerate(order):
        named[new] = images.classes[old]
    digest = hashlib.sha256(f"{images.sha256} {order} {named}".encode()).hexdigest()
    labels = np.asarray(order, dtype=np.int64)[images.labels]
    return replace(images, labels=labels, classes=tuple(named), sha256=digest)


def shared_images(train: ImageSet, test: ImageSet) -> list[Flag]:
    """A flag where test images are training images too, pixel by pixel.

    Two rows of each image are looked up, and the hash of the whole of those alone in which these agree.
    """
    first, second = train.images, test.images
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        return []
    rows, known = [first.shape[2] // 3, first.shape[2] // 2], dict[bytes, list[int]]()
    for number, image in enumerate(first):
        known.setdefault(image[0, rows].tobytes(), []).append(number)
    whole, shared = dict[bytes, set[bytes]](), 0
    for image in second:
        if (key := image[0, rows].tobytes()) in known:
            if key not in whole:
                whole[key] = {_digest(first[number]) for number in known[key]}
            shared += _digest(image) in whole[key]
    return [SHARED_IMAGES(value=shared, threshold=0, images=len(test))] if shared else []


def _digest(image: npt.NDArray[Any]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def content_of(images: ImageSource) -> str:
    """A hash of images and labels that are in memory; of others all that is known of them, their number."""
    return str(getattr(images, "sha256", len(images)))


def describe(images: object) -> dict[str, Any]:
    """What is known of images, for the record of a result: nothing, unless they are an `ImageSet`."""
    if not isinstance(images, ImageSet):
        return {}
    known = ("name", "split", "classes", "sha256", "note")
    return {name: getattr(images, name) for name in known} | {"classes": list(images.classes)}


def class_name(number: int, classes: Sequence[str]) -> str:
    """The name of a class, or its number where there are fewer names."""
    return classes[number] if 0 <= number < len(classes) else str(number)
