"""What users are told: which optional package is missing, and an error's message in one line."""

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
