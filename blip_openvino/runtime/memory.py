"""Memory that a compiled model needs no more."""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

MAPS = Path("/proc/self/maps")


def release_pages(folders: Iterable[Path]) -> None:
    """Drop the pages of these folders' files that are mapped read-only from memory.

    The mappings stay: a page that is needed again is read from its file again. OpenVINO 2026.4 keeps a model's weights
    beside those that it packs from them, 346 MB of BLIP base at INT8, and packs anew only for an unusual shape; what it
    has read from a model cache it keeps as well. Linux only, elsewhere nothing happens.

    Raises:
        OSError: the system refuses.
    """
    resolved = {folder.resolve() for folder in folders}
    for line in MAPS.read_text().splitlines() if MAPS.exists() else ():
        addresses, permissions, _, _, inode, *path = line.split(maxsplit=5)
        if inode != "0" and permissions[1] == "-" and resolved.intersection(Path(path[0]).parents):
            start, end = (int(each, 16) for each in addresses.split("-"))
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), f"cannot release the pages of {path[0]}")
