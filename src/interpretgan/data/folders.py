"""Folders of images: which classes they hold, which part is the test split, and what is left out."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeAlias

from interpretgan.data.readers import Example, Source, hash_of, readable_file
from interpretgan.errors import DataError, kind_of

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif",
    ".tiff",
)  # fmt: skip
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev")  #: The first with classes is the test split.
PICTURES, MASKS = ("image", "images"), ("annotations", "labels", "mask", "masks")  #: Folders of a segmentation.
TEST_SHARE = 0.2
#: Names in order, text with commas, a file with one a line, or a dictionary from names to numbers or back.
ClassNames: TypeAlias = Sequence[str] | str | os.PathLike[str] | Mapping[str, int] | Mapping[int, str]


@dataclass
class Found:
    """What lies in a folder: image files by the name of their class, and how many files are not used, by suffix."""

    files: dict[str, list[Path]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def folder_source(name: str, split: str, classes: Sequence[str] | None = None) -> Source:
    """The images of one split of a folder, those of a class in all its subfolders.

    The folder holds `train/<class>/*` and `test/<class>/*` (`val`, `validation` or `dev` stands in for `test`), or
    `<class>/*`, of which a fixed fifth of each class is the test split. Classes are numbered by name, by size where all
    names are whole numbers, or in the order of `classes`, which has the name of every logit of a network.

    Raises:
        DataError: Fewer than two classes, a class folder without images, or one that `classes` does not have. Also
            folders that are splits of other names, or images and masks, unless `classes` states them.
    """
    root = Path(name)
    parts = splits(root)
    if parts is None:
        found = _by_class(root)
        everything, unused = [found], list[str]()
        chosen = {label: _fixed_part(files, root, split) for label, files in found.files.items()}
    else:
        everything = [_by_class(part) for part in parts]
        chosen = everything[0 if split == "train" else 1].files
        unused = [f"{folder.name}/" for folder in _folders(root) if folder not in parts]
    known = everything[0].files
    if len(known) < 2:
        raise DataError(
            expected="train/<class>/* and test/<class>/*, or <class>/*, with at least two classes of images",
            got=f"{len(known)} in {root}{_inside(root)}",
            do="put the images of each class in a folder of its own, or name the folder that holds these",
        )
    if classes is None:
        _refuse_what_is_no_class(known, root if parts is None else parts[0], split=parts is not None)
    numbered = _numbered(known, classes, root)
    if parts is not None and (unknown := sorted(set(everything[1].files) - set(numbered))):
        expected, do = f"classes in {parts[1]} that occur in {parts[0]}", "add training images, or remove it"
        raise DataError(expected=expected, got=f"{unknown[0]!r}", do=do)
    files = [(file, numbered.index(label)) for label, of_class in chosen.items() for file in of_class]
    files.sort(key=lambda item: _shuffled(item[0], root))  # so that any prefix has all classes
    if not files:
        raise DataError(expected=f"images in the {split} split of {root}", got="none", do="add images to it")
    all_files = sorted(file for part in everything for of_class in part.files.values() for file in of_class)

    def examples() -> Iterator[Example]:
        for file, label in files:
            with readable_file(file):
                yield file.read_bytes(), label, str(file)

    place = root if parts is None else parts[split == "test"]
    deeper = sum(_folder_below(file, place / numbered[label]) is not None for file, label in files)
    nested = [f", {deeper:,} of them in folders inside those of the classes"] if deeper else []
    states = (_state(file, root) for file in all_files)
    fingerprint = hash_of([str(root.resolve()), *numbered, *unused, *nested, *states])
    origin = "".join((f"{len(files):,} images in {root.name}/", "" if parts is None else f"{place.name}/", *nested))
    left_out = sum((part.left_out for part in everything), Counter[str]())
    if left_out:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in left_out.most_common(3))
        origin += f", {left_out.total():,} other files left out ({kinds})"
    if unused:
        origin += f", {', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''} left out"
    return Source(name, split, numbered, len(files), origin, fingerprint, examples, all_files)


def class_names(classes: ClassNames | None) -> Sequence[str] | None:
    """Names of classes in the order of their numbers, whichever way they are given; a `DataError` for anything else."""
    if classes is None:
        return None
    if isinstance(classes, Mapping):
        return _by_number(classes)
    if isinstance(classes, str) and not os.path.isfile(classes):  # noqa: PTH113  # a list may be too long for a path
        return [name.strip() for name in classes.split(",") if name.strip()]
    if isinstance(classes, str | os.PathLike):
        with readable_file(Path(classes)):
            lines = Path(classes).read_text(encoding="utf-8-sig").splitlines()
        return [name for line in lines if (name := line.strip())]
    names: object = classes.tolist() if hasattr(classes, "tolist") else classes
    if not isinstance(names, Sequence) or isinstance(names, str | bytes):  # a set has no order
        expected = "the names of classes in a list, a text or a file, or a dictionary of their numbers"
        raise DataError(expected=expected, got=kind_of(classes), do="pass e.g. ['cat', 'dog']")
    return tuple(map(str, names))


def _by_number(classes: Mapping[Any, Any]) -> tuple[str, ...]:
    """The names of a dictionary from names to numbers, or from numbers to names, in the order of the numbers."""
    pairs = list(classes.items())
    if all(isinstance(number, str) and number.isdecimal() for number, _ in pairs):  # as JSON has it
        pairs = [(int(number), name) for number, name in pairs]
    if not all(isinstance(name, str) for name, _ in pairs):
        pairs = [(name, number) for number, name in pairs]
    whole = all(isinstance(number, Integral) and not isinstance(number, bool) for _, number in pairs)
    named = {number: name for name, number in pairs if isinstance(name, str)} if whole else {}
    if len(named) != len(pairs) or {*named} != {*range(len(pairs))}:
        expected, do = f"classes numbered from 0 to {len(pairs) - 1}, each once", "pass e.g. {'cat': 0, 'dog': 1}"
        raise DataError(expected=expected, got=f"{dict(classes)!s:.80}", do=do)
    return tuple(named[number] for number in range(len(pairs)))


def splits(root: Path) -> tuple[Path, Path] | None:
    """The folders of training and test images. `None`: there are none, and all folders are classes.

    A folder that is called `train` is a class itself, unless it holds folders and one for tests stands beside it.
    """
    folders = {path.name.lower(): path for path in _folders(root)}
    train = next((folders[name] for name in TRAIN_NAMES if name in folders and _folders(folders[name])), None)
    test = next((folders[name] for name in TEST_NAMES if name in folders and _folders(folders[name])), None)
    if train is not None and test is not None:
        return train, test
    if folders and folders.keys() <= {*TRAIN_NAMES, *TEST_NAMES}:
        expected = f"a folder {root} with train/<class>/* and test/<class>/* (or val/, dev/), or <class>/* alone"
        missing = "test" if train is not None else "train"
        got = f"{', '.join(f'{name}/' for name in sorted(folders))}, and no {missing}/ with folders of classes"
        do = "sort its images into folders of classes"
        if train is not None:
            do += f", or name {train}, of which a fixed fifth of each class is then the test split"
        raise DataError(expected=expected, got=got, do=do)
    return None


def _refuse_what_is_no_class(known: dict[str, list[Path]], root: Path, *, split: bool) -> None:
    """Refuse (`DataError`) folders like images and their masks, or like splits of other names where there are none."""
    names, got, do = {name.lower() for name in known}, None, ""
    inside = [{_folder_below(file, root / name) for file in files} for name, files in known.items()]
    if names <= {*PICTURES, *MASKS} and names & {*PICTURES} and names & {*MASKS}:
        got, do = "as of a segmentation", "sort the images, without their masks, into folders of classes"
    elif not split and None not in inside[0] and len(inside[0]) > 1 and all(each == inside[0] for each in inside):
        got = f"each with the folders {_some(map(str, inside[0]))}, as splits of a set have"
        do = "rename them to train/ and test/, or name the folder of one split"
    if got is not None:
        do += ", or state these with --classes (classes=... in Python) where they are the classes"
        got = f"{_some(f'{name}/' for name in known)}, {got}"
        raise DataError(expected=f"a folder for each class in {root}", got=got, do=do)


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    return ", ".join(known[:4]) + (", ..." if len(known) > 4 else "")


def _folder_below(file: Path, folder: Path) -> str | None:
    """The folder inside the given one that a file lies in; `None` where it lies right in the given one."""
    first, *more = file.relative_to(folder).parts
    return first if more else None


def _by_class(folder: Path) -> Found:
    """Images by the name of their folder; a `DataError` for a class folder that holds none, which has a number too."""
    found = Found()
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            found.left_out[path.suffix.lower() or path.name] += 1
    for part in _folders(folder):
        images, others = [], Counter[str]()
        for file in _files(part):
            _require_utf8(file)
            if file.suffix.lower() in SUFFIXES:
                images.append(file)
            else:
                others[file.suffix.lower() or file.name] += 1
        if not images:
            got = f"none in {part.name}" + (f" ({', '.join(sorted(others)[:4])} alone)" if others else "")
            do = f"add images or convert them, or remove the folder; images end in {', '.join(SUFFIXES)}"
            raise DataError(expected=f"images in each class folder of {folder}", got=got, do=do)
        found.files[part.name] = sorted(images)
        found.left_out += others
    return found


def _folders(folder: Path) -> list[Path]:
    with readable_file(folder):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, hidden ones left out."""
    seen = set()

    def refuse(error: OSError) -> None:
        with readable_file(Path(error.filename)):
            raise error

    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _inside(root: Path) -> str:
    """What there is in a folder that has no classes, for a message."""
    folders = _folders(root)
    deeper = [folder for folder in folders if len(_folders(folder)) > 1]
    if deeper:
        return f", whose folder {deeper[0].name} holds {len(_folders(deeper[0]))} folders"
    loose = sum(path.suffix.lower() in SUFFIXES for path in root.iterdir())
    return f", with {loose:,} images in no folder" if loose else ""


def _numbered(known: dict[str, list[Path]], classes: Sequence[str] | None, root: Path) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers."""
    if classes is None:
        whole = all(name.isascii() and name.isdigit() for name in known)
        return tuple(sorted(known, key=lambda name: (int(name) if whole else 0, name)))
    missing = sorted(set(known) - set(classes))
    if missing or len(set(classes)) < len(classes):
        expected = f"the name of every class folder of {root}, each once"
        got = f"none for {missing[0]}" if missing else f"{len(classes)} names, {len(set(classes))} of them different"
        raise DataError(expected=expected, got=got, do="name the folders in the order of the network's logits")
    return tuple(classes)


def _require_utf8(file: Path) -> None:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        do = "rename it: no report could show it"
        raise DataError(expected="names in UTF-8", got=f"{str(file)[-60:]!a}", do=do) from None


def _state(file: Path, root: Path) -> str:
    """Changes when the file does; a `DataError` for what is none, as a pipe, which might never end."""
    with readable_file(file):
        stat = file.stat()
    if not S_ISREG(stat.st_mode):
        raise DataError(expected=f"files in {file.parent}", got=f"{file.name}, which is none", do="move it away")
    return f"{file.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}"


def _shuffled(file: Path, root: Path) -> str:
    """A key that sorts files in a random but fixed order."""
    return hash_of([file.relative_to(root).as_posix()])


def _fixed_part(files: list[Path], root: Path, split: str) -> list[Path]:
    """A fifth of the files for the test split, the rest for training, chosen by a hash of the name."""
    ranked = sorted(files, key=lambda file: _shuffled(file, root))
    test = max(1, round(TEST_SHARE * len(files))) if len(files) > 1 else 0
    return ranked[:test] if split == "test" else ranked[test:]
