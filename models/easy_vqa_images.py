"""easy-VQA's pictures as tensors, mirrored, moved and enlarged to train on."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate


def read_images(image_paths: Sequence[str]) -> Tensor:
    """Read RGB images of one size as `[N, 3, H, W]` uint8."""
    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in image_paths]).permute(
        0, 3, 1, 2
    )


def free_margins(images: Tensor) -> Tensor:
    """Count the shape-free pixels on each side of `[N, 3, H, W]` images: `[N, 4]` int64, top, bottom, left, right.

    The background is the lightest colour of an image: easy-VQA draws a saturated or dark shape on a pale plain ground.
    """
    flat = images.int().flatten(2)
    lightest = flat.sum(1).argmax(1)
    background = flat[torch.arange(len(flat)), :, lightest]
    is_shape = (images.int() != background[:, :, None, None]).any(1)
    rows, columns = is_shape.any(2).int(), is_shape.any(1).int()
    return torch.stack([line.argmax(1) for line in (rows, rows.flip(1), columns, columns.flip(1))], 1)


def augment(images: Tensor, margins: Tensor) -> Tensor:
    """Mirror each of `[N, 3, H, W]` images left to right or not, and move its shape anywhere within the frame.

    The shape stays whole and the ground is plain, so every question keeps its answer.
    """
    count, channels, height, width = images.shape
    top, bottom, left, right = margins.unbind(1)
    down = (torch.rand(count) * (top + bottom + 1)).long() - top
    along = (torch.rand(count) * (left + right + 1)).long() - left
    rows = (torch.arange(height) - down[:, None]) % height
    columns = (torch.arange(width) - along[:, None]) % width
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    return images[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def enlarge(images: Tensor, size: int) -> Tensor:
    """Resize `[N, 3, H, W]` uint8 to `size` x `size`, as Pillow's bicubic filter does."""
    large = interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    return large.round().clamp(0, 255).to(torch.uint8)
