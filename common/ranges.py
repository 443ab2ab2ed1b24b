"""Numbers that people and files give, in specs, config keys, options, states: finite and not too large."""
import argparse
import math
import re
import typing
from collections.abc import Callable
from typing import NamedTuple

from utils import shortened

LARGEST = 10 ** 9   # of any number without a limit of its own
LONGEST = 10 ** 4   # most items of a list of arguments


class Range(NamedTuple):
    """The numbers from `lowest` to `highest`, whole ones alone where `whole`."""
    lowest: float
    highest: float
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return self.lowest <= value <= self.highest

    def __str__(self) -> str:
        return f'a {"whole " if self.whole else ""}number from {self.lowest:,} to {self.highest:,}'


class AtMost(NamedTuple):
    """The largest absolute value of a number: `Annotated[int, AtMost(1024)]`, also of each number of a list."""
    value: float = LARGEST
    length: int = LONGEST  # of a list of numbers

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or with a number that it contains; None when nothing is. Texts are not judged."""
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            if len(value) > self.length:
                return f'expected at most {self.length:,} values, got {len(value)}'
            return next((problem for item in value if (problem := self.problem(item))), None)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return f'expected a finite number, got {value}'
        if not -self.value <= value <= self.value:
            return f'expected a number of at most {self.value:,}, got {shortened(value)}'
        return None


DEFAULT_LIMIT = AtMost()


def declared_limit(annotation: object) -> AtMost | None:
    """The limit that an annotation declares, anywhere in it; None where it declares none."""
    for note in getattr(annotation, '__metadata__', ()):
        if isinstance(note, AtMost):
            return note
    return next((found for inner in typing.get_args(annotation) if (found := declared_limit(inner))), None)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that holds a whole number from `low` to `high`, in the digits 0 to 9."""
    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r'-?[0-9]{1,18}', text) else None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f'expected a whole number from {low} to {high}, got {shortened(text)}')
        return number
    return parse


def whole_numbers(low: int, high: int, count: int | None = None) -> Callable[[str], list[int]]:
    """The type of an option that holds whole numbers from `low` to `high`, separated by commas; `count` of them if given."""
    def parse(text: str) -> list[int]:
        parts = text.split(',')
        if count is not None and len(parts) != count:
            raise argparse.ArgumentTypeError(f'expected {count} whole numbers, separated by commas, got {shortened(text)}')
        return [whole_number(low, high)(part.strip()) for part in parts]
    return parse


def real_number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that holds a number from `low` to `high`, in the digits 0 to 9."""
    def parse(text: str) -> float:
        try:
            number = float(text) if text.isascii() and '_' not in text else math.nan
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f'expected a number from {low:g} to {high:g}, got {shortened(text)}')
        return number
    return parse
