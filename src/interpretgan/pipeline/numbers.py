"""Numbers and names as the command line takes them: `8/255`, `0.48,0.45,0.41`, `96x128`, `1h30m`, `conv1,fc`."""

from fractions import Fraction
from typing import Annotated, Any

from cyclopts import Parameter, Token, convert

from interpretgan.errors import ConfigError
from interpretgan.store.progress import seconds_of


def _number(text: str) -> float:
    return float(Fraction(text)) if "/" in text else float(text)


def parse_value(kind: Any, tokens: tuple[Token, ...]) -> Any:
    """Any other value, as Cyclopts takes it; but it rounds a fraction where a whole number is wanted."""
    value = convert(kind, tokens)
    if type(value) is int and "." in tokens[0].value and not float(tokens[0].value).is_integer():
        raise ValueError(f"expected a whole number, got {tokens[0].value}")
    return value


def parse_number(_type: object, tokens: tuple[Token, ...]) -> float:
    """A number or a fraction: `0.2`, `8/255`."""
    try:
        return _number(tokens[0].value)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number or a fraction like 8/255, got '{tokens[0].value}'") from None


def parse_numbers(_type: object, tokens: tuple[Token, ...]) -> tuple[float, ...]:
    """Numbers with commas between: `0.48,0.45,0.41`."""
    try:
        return tuple(_number(part) for part in tokens[0].value.split(","))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected numbers like 0.48,0.45,0.41, got '{tokens[0].value}'") from None


def parse_size(_type: object, tokens: tuple[Token, ...]) -> int | tuple[int, int]:
    """Pixels a side, `128`, or height and width, `96x128`."""
    try:
        sides = [int(side) for side in tokens[0].value.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError(f"expected pixels a side like 128, or height and width like 96x128, got '{tokens[0].value}'")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def parse_seconds(_type: object, tokens: tuple[Token, ...]) -> float:
    """A time: `90s`, `3m`, `1h30m`."""
    return seconds_of(tokens[0].value)


LEAST = {
    "epochs": 1, "judge_epochs": 1, "generator_seeds": 1, "examples": 1, "curve_examples": 1, "bootstrap": 1,
    "generator_steps": 1, "images_per_layer": 1, "information_steps": 0, "let_in_steps": 0, "time_budget": 0,
}  # fmt: skip
"""The least that an option may be, by its name."""

Number = Annotated[float, Parameter(converter=parse_number)]
Numbers = Annotated[
    tuple[float, ...] | None, Parameter(converter=parse_numbers, n_tokens=1, negative="", metavar="A,B,C")
]
Size = Annotated[
    int | tuple[int, int] | None, Parameter(converter=parse_size, n_tokens=1, negative="", metavar="PIXELS")
]
Seconds = Annotated[float | None, Parameter(converter=parse_seconds, metavar="TIME")]


def parse_names(text: str) -> list[str]:
    """Names with commas between: `conv1,fc`."""
    return [name.strip() for name in text.split(",") if name.strip()]


class CheckedOptions:
    """Options that are checked when they are made."""

    def __post_init__(self) -> None:
        """Refuse (`ConfigError`) an option that is below its `LEAST`, and a level of intervals that is none."""
        for name, value in vars(self).items():
            if name in LEAST and value is not None and value < LEAST[name]:
                do = f"raise --{name.replace('_', '-')}"
                raise ConfigError(expected=f"{name} >= {LEAST[name]}", got=str(value), do=do)
            if name == "confidence" and not 0 < value < 1:
                raise ConfigError(expected="0 < confidence < 1", got=str(value), do="try 0.95")
