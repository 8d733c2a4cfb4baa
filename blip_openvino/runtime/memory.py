"""Memory that a compiled model needs no more."""

import ctypes
import mmap
from pathlib import Path

import openvino as ov

MAPS = Path("/proc/self/maps")


def weights_address(model: ov.Model) -> int:
    """Where the largest constant of `model` lies in memory: in its weights file, if OpenVINO has mapped that."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return max(constants, key=lambda node: node.get_byte_size()).data.ctypes.data


def release_pages(address: int) -> None:
    """Take the pages of the file that is mapped read-only at `address` out of memory; other memory is left alone.

    The mapping stays: a page that is needed again is read from the file again. OpenVINO 2026.4 keeps a model's weights
    beside those that it packs from them, 346 MB of BLIP base at INT8, and packs anew only for an unusual shape. Linux
    only, elsewhere nothing happens.

    Raises:
        OSError: the system refuses.
    """
    for line in MAPS.read_text().splitlines() if MAPS.exists() else ():
        addresses, permissions, _, _, inode, *_ = line.split()
        start, end = (int(each, 16) for each in addresses.split("-"))
        if start <= address < end and inode != "0" and permissions[1] == "-":
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), f"cannot release the pages mapped at {addresses}")
