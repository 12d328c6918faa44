"""How the command line reads whole numbers."""

from collections.abc import Sequence
from typing import Any

from cyclopts import Token, convert


def whole_numbers(kind: Any, tokens: Sequence[Token]) -> Any:
    """Tokens as values of a kind. Cyclopts rounds what is given for an `int`; a fraction is a `ValueError` here."""
    value = convert(kind, tokens)
    if type(value) is int and "." in tokens[0].value and not float(tokens[0].value).is_integer():
        raise ValueError(f"expected a whole number, got {tokens[0].value}")
    return value
