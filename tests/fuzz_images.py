"""Coverage-guided fuzzing of `load_image` with atheris: python fuzz_images.py CORPUS -runs=N -seed=1 -rss_limit_mb=0

In a process of its own, which atheris ends. Its exit code is 0 only where every input was read or refused, in 2 GiB of
addresses. (Atheris' own limit looks at the most memory ever resident, and that begins with what the parent had.)
"""

import resource
import sys

import atheris

with atheris.instrument_imports():
    from blip_openvino.runtime.images import load_image

from PIL import Image

resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
Image.MAX_IMAGE_PIXELS = 10**6  # bombs are tried elsewhere, and cost time


def read_or_refuse(content: bytes) -> None:
    try:
        image = load_image(content)
    except ValueError as error:
        if not str(error):
            raise
        return
    if image.mode != "RGB" or not image.width or not image.height:
        raise AssertionError(f"{image.mode} of {image.size}")


atheris.Setup(sys.argv, read_or_refuse)
atheris.Fuzz()
