"""The images of a collection, wherever they lie: files, folders, globs, addresses, and lists of them.

for item in find_items(["photos", "s3://bucket/more/*.jpg"]):
    print(item.path, len(item.read()))
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from blip_openvino.apps.errors import extra
from blip_openvino.runtime.images import IMAGE_FORMATS

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS)
"""What the files end in that a folder or a glob is searched for."""


@dataclass(frozen=True)
class Item:
    """An image of a collection, not read yet, and the text that goes with it."""

    path: str
    """A path or an address; of an image whose bytes are in a table, `photos.parquet#17`, counted from 0."""
    read: Callable[[], bytes] = field(repr=False, compare=False)
    """Gives the file's content, or raises OSError or ValueError."""
    text: str | None = None
    """The question, or the beginning of the caption, that the table has for it."""
    folder: str | None = field(default=None, compare=False)
    """The folder given, or the one that the file given is in; None where there is no file."""

    @property
    def file_name(self) -> str:
        """Its path below `folder`."""
        return self.path.removeprefix(self.folder or "").lstrip("/\\")


def find_items(inputs: Iterable[str] = (), list_file: str | None = None) -> list[Item]:
    """The images that some inputs stand for; none is opened yet.

    Args:
        inputs: files, folders, which are searched to the bottom, and globs, of this machine or, as addresses such as
            `s3://bucket/photos`, of any file system that fsspec knows. Hidden files are left out.
        list_file: a text file, or its address, with a path or an address a line.

    Raises:
        ValueError: an input has no images.
        OSError: it is not there, or cannot be listed.
        ImportError: it is an address, and the extra `collections` is not installed.
    """
    items = []
    for each in inputs:
        found = _at_address(each) if is_address(each) else _on_disk(each)
        if not found:
            raise ValueError(f"{each} has no images: none ends in {', '.join(sorted(SUFFIXES))}")
        items += found
    if list_file is not None:
        lines = read_file(list_file).decode("utf-8-sig").splitlines()
        named = [item_at(line.strip()) for line in lines if line.strip()]
        if not named:
            raise ValueError(f"{list_file} names no images: it takes a path or an address a line")
        items += named
    return items


def is_collection(given: str) -> bool:
    """Whether an input stands for more than a file of this machine."""
    return is_address(given) or os.path.isdir(given) or _is_glob(given)


def is_address(path: str) -> bool:
    """Whether fsspec is to open it."""
    return "://" in path


def item_at(path: str, text: str | None = None) -> Item:
    """The item of one file, by its path or address; whether it is there is known when it is read."""
    return Item(path, partial(read_file, path), text, os.path.dirname(path))


def read_file(path: str) -> bytes:
    """The content of a file by its path or address; OSError where it cannot be read."""
    if not is_address(path):
        return Path(path).read_bytes()
    with reaching(path):
        fs, inner = filesystem(path)
        return fs.cat_file(inner)


def filesystem(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system that an address is of, and the path there."""
    with extra("collections"):
        # fsspec, which only addresses need.
        from fsspec.core import url_to_fs
    return url_to_fs(address)


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Make an OSError of what else a store's client raises."""
    try:
        yield
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # of a client for a store, such as botocore's
        raise OSError(f"{address} cannot be reached: {error}") from error


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _is_glob(path: str) -> bool:
    return glob.has_magic(path) and not os.path.exists(path)


def _on_disk(given: str) -> list[Item]:
    if os.path.isdir(given):
        folder, paths = given, _walk(given)
    elif _is_glob(given):
        folder, paths = _folder_of_glob(given), sorted(filter(_is_image, glob.iglob(given, recursive=True)))
    elif _is_image(given) or os.path.exists(given):
        return [item_at(given)]
    else:
        raise FileNotFoundError(f"there is no {given}: give an image, a folder, a glob or an address of them")
    return [Item(path, partial(read_file, path), None, folder) for path in paths]


def _walk(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    paths = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names if _is_image(name) and not name.startswith(".")]
    return sorted(paths)


def _folder_of_glob(pattern: str) -> str:
    """What of a glob's path is no pattern."""
    fixed = pattern[: min(pattern.index(sign) for sign in "*?[" if sign in pattern)]
    return os.path.dirname(fixed)


def _at_address(address: str) -> list[Item]:
    # A `?` may be part of a web address, and to ask each image whether it is a folder takes a request.
    if _is_image(address) and "*" not in address:
        return [item_at(address)]
    with reaching(address):
        fs, path = filesystem(address)
        if "*" in path:
            folder, found = _folder_of_glob(path), fs.glob(path)
        elif fs.isdir(path):
            folder, found = path.rstrip("/"), fs.find(path)
        else:
            return [item_at(address)]
    whole = fs.unstrip_protocol
    visible = [each for each in sorted(found) if _is_image(each) and "/." not in each[len(folder) :]]
    return [Item(whole(each), partial(_read_there, fs, each), None, whole(folder)) for each in visible]


def _read_there(fs: AbstractFileSystem, path: str) -> bytes:
    with reaching(path):
        return fs.cat_file(path)
