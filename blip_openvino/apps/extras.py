"""Optional packages: imported where they are needed, and named where they are missing."""

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
