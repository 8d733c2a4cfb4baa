"""What rows of strange input are made of: a name, what is handed in, and the one right outcome."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Refused:
    """The outcome is an error whose message holds the regular expression `message`."""

    message: str
    error: type[Exception] = ValueError

    def check(self, call: Callable[[], object]) -> None:
        with pytest.raises(self.error) as caught:
            call()
        text = str(caught.value)
        assert type(caught.value) is self.error
        assert re.search(self.message, text, re.DOTALL), f"{text!r} does not say {self.message!r}"


@dataclass(frozen=True)
class Row:
    """`given` is handed in, or makes it where it is a function; `expected` is a result or `Refused`."""

    name: str
    given: Any
    expected: Any


def named(rows: list[Row]) -> list:
    """The rows as parameters of a test, with their names as ids."""
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    return [pytest.param(row, id=row.name) for row in rows]
