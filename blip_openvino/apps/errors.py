"""What users are told: which optional package is missing, an error's message in one line, a number in few digits."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports inside that fail name the extra of this package that brings what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'{error.name} is not installed: pip install ".[{name}]" in a clone of the repository'
        raise ImportError(message) from error


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def rounded(number: float) -> float:
    """To four digits, and never -0.0."""
    return round(float(number), 4) + 0.0
