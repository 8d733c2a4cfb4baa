"""Calibration on a user's own pictures and texts: a folder, or a dataset of the Hugging Face Hub."""

import json
import logging
import random
from itertools import islice
from pathlib import Path

import datasets
from PIL import Image

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"}
TEXT_SUFFIXES = (".txt", ".caption")
TEXT_COLUMNS = ("question", "text", "caption")
"""Where a text is looked for, the first that is there."""
SEED = 42


def user_calibration(source: str | Path, samples: int) -> datasets.Dataset:
    """Images and texts to calibrate on, drawn with a fixed seed.

    Args:
        source: a folder of images, searched through, each with its text in a file of the same stem (`.txt`,
            `.caption`) or in the folder's `metadata.jsonl` (`file_name`, and `question`, `text` or `caption`), as
            `datasets` has it; or a dataset's name on the Hub, of which the split `train` is read, else the first.
        samples: how many there are at most.

    Returns:
        Columns `image`, `image_id` (one for each different image) and `text` (empty where there is no text).

    Raises:
        ValueError: there is no image, or the dataset has no column of images.
        OSError: the folder or the dataset cannot be read.
    """
    return folder_samples(Path(source), samples) if Path(source).is_dir() else hub_samples(str(source), samples)


def folder_samples(folder: Path, samples: int) -> datasets.Dataset:
    """`user_calibration` of a folder; files that are no images are left out, which is logged."""
    pairs = metadata_pairs(folder / "metadata.jsonl") if (folder / "metadata.jsonl").exists() else sidecar_pairs(folder)
    random.Random(SEED).shuffle(pairs)
    chosen: list[tuple[str, str]] = list(islice((pair for pair in pairs if is_readable(pair[0])), samples))
    if not chosen:
        raise ValueError(f"{folder} has no image to calibrate on; readable are {', '.join(sorted(IMAGE_SUFFIXES))}")
    ids = {path: index for index, path in enumerate(dict(chosen))}
    columns = {
        "image": [path for path, _ in chosen],
        "image_id": [ids[path] for path, _ in chosen],
        "text": [text for _, text in chosen],
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def metadata_pairs(metadata: Path) -> list[tuple[str, str]]:
    """(image path, text) of every line of a `metadata.jsonl`."""
    pairs = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            pairs.append((str(metadata.parent / record["file_name"]), first_text(record)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{metadata}, line {number} is {line!r:.80}; it takes an object with file_name") from error
    return pairs


def sidecar_pairs(folder: Path) -> list[tuple[str, str]]:
    """(image path, text) of every image below a folder, with the text that lies beside it."""
    pairs = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            texts = (path.with_suffix(suffix) for suffix in TEXT_SUFFIXES)
            text = next((text.read_text(encoding="utf-8").strip() for text in texts if text.exists()), "")
            pairs.append((str(path), text))
    return pairs


def is_readable(path: str) -> bool:
    """Whether Pillow can read the image."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError) as error:  # the last of a damaged PNG
        logger.warning("%s is left out: %s", path, error)
        return False
    return True


def hub_samples(name: str, samples: int) -> datasets.Dataset:
    """`user_calibration` of a dataset on the Hub, streamed: only what is read is downloaded."""
    splits = datasets.load_dataset(name, streaming=True)
    stream = splits["train"] if "train" in splits else splits[next(iter(splits))]
    images = [column for column, feature in (stream.features or {}).items() if isinstance(feature, datasets.Image)]
    if not images:
        raise ValueError(f"the dataset {name} has no column of images, only {', '.join(stream.features or ())}")
    records = [
        {"image": record[images[0]], "image_id": index, "text": first_text(record)}
        for index, record in enumerate(islice(stream.shuffle(seed=SEED, buffer_size=1000), samples))
    ]
    if not records:
        raise ValueError(f"the dataset {name} is empty: there is nothing to calibrate on")
    return datasets.Dataset.from_list(records)


def first_text(record: dict) -> str:
    """The text of a record; of a list of captions the first."""
    for column in TEXT_COLUMNS:
        text = record.get(column)
        text = text[0] if isinstance(text, list) and text else text
        if isinstance(text, str):
            return text.strip()
    return ""
