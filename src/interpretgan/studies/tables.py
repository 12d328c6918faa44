"""Tables of a TOML file as frozen dataclasses: every key known, every value of its type."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

from interpretgan.errors import ConfigError

Options = TypeVar("Options")


def read_table(kind: type[Options], table: object, where: str, *, without: tuple[str, ...] = ()) -> Options:
    """One table as a dataclass.

    Args:
        kind: The dataclass. Its fields are numbers, words, paths, truth values, tuples of these, `Literal` or `None`.
        table: What the file has there.
        where: How the file names the table, for errors.
        without: Fields that this table cannot set.

    Raises:
        ConfigError: No table, an unknown or missing key, or a value of another type.
    """
    values = as_table(table, where)
    hints = typing.get_type_hints(kind)
    known = [item for item in fields(kind) if item.name not in without]  # type: ignore[arg-type]  # a dataclass
    check_keys(values, [item.name for item in known], where)
    missing = [
        item.name
        for item in known
        if item.default is MISSING and item.default_factory is MISSING and item.name not in values
    ]
    if missing:
        raise ConfigError(expected=f"{where}.{missing[0]}", got="none", do="add it")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def as_table(value: object, where: str) -> Mapping[str, Any]:
    """The value, which is a table.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(expected=f"a table {where}", got=repr(value), do=f"write [{where}] and its keys below")
    return value


def check_keys(table: Mapping[str, Any], known: list[str], where: str) -> None:
    """Refuse a table that has other keys than the known ones.

    Raises:
        ConfigError: It has.
    """
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.6)
            raise ConfigError(
                expected=f"the keys {', '.join(known)} in {where}",
                got=repr(key),
                do=f"did you mean {near[0]}?" if near else "remove it",
            )


def _value(hint: Any, value: object, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = [one for one in arguments if one is not type(None)]
        return _value(hint, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one, where) for one in value)
    if hint is float and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return number
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    raise ConfigError(expected=f"{where} as {_name(hint)}", got=repr(value), do="correct it")


def _number(value: object) -> float | None:
    """A number, also as the text of a fraction like `8/255`."""
    try:
        return float(Fraction(value) if isinstance(value, str) else value)  # type: ignore[arg-type]  # caught below
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list, each {_name(arguments[0])}"
    names = {
        int: "a whole number",
        float: "a number or a fraction like '8/255'",
        str: "a text in quotes",
        Path: "a path in quotes",
        bool: "true or false",
    }
    return names.get(hint, str(hint))
