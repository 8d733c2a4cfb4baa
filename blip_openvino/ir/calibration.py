"""Calibration data that suits a converted model, by what its folder says it is."""

import hashlib
import random
from itertools import islice
from pathlib import Path

import datasets
from PIL import Image
from tqdm.auto import tqdm

from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scene_questions import scene_questions
from blip_openvino.data.scenes import draw_scene, make_scenes
from blip_openvino.data.vqa_v2 import CALIBRATION, vqa_v2_samples
from blip_openvino.ir.files import CALIBRATION_SAMPLES, architecture, load_config

SEED = 42


def calibration_dataset(folder: str | Path, samples: int = CALIBRATION_SAMPLES) -> datasets.Dataset:
    """Images and texts of the kind that the model in a converted folder reads: `image`, `image_id` and `text`.

    Models that say they were trained on drawn scenes get scenes; all others photographs from the Hub: with questions
    (VQA v2) where the checkpoint answers them, else with captions (COCO).

    Raises:
        FileNotFoundError, ValueError: the folder is not a converted model.
        OSError: the Hub cannot be reached.
    """
    config = load_config(Path(folder))
    asks = architecture(config).answers
    if getattr(config, "trained_on", None) == "scenes":
        return scene_texts(asks, samples)
    if asks:
        return vqa_v2_samples(samples, SEED, CALIBRATION).rename_column("question", "text")
    return coco_captions(samples)


def scene_texts(asks: bool, samples: int = CALIBRATION_SAMPLES) -> datasets.Dataset:
    """Drawn scenes, each with a question about it or with its caption."""
    scenes = make_scenes(samples, SEED)
    choose = random.Random(SEED).choice
    texts = [choose(scene_questions(scene)).question if asks else caption(scene) for scene in scenes]
    rows = [
        {"image": draw_scene(scene), "image_id": index, "text": text}
        for index, (scene, text) in enumerate(zip(scenes, texts, strict=True))
    ]
    return datasets.Dataset.from_list(rows)


def coco_captions(samples: int) -> datasets.Dataset:
    """Photographs of COCO's validation split, each with its first caption, streamed from the Hub.

    `lmms-lab/COCO-Caption2017` holds it as Parquet (CC BY 4.0, cocodataset.org); only what is read is downloaded.
    """
    stream = datasets.load_dataset("lmms-lab/COCO-Caption2017", split="val", streaming=True)
    stream = stream.shuffle(seed=SEED, buffer_size=1000)
    records = tqdm(islice(stream, samples), total=samples, desc="downloading samples", unit="sample")
    rows = [{"image": row["image"], "image_id": index, "text": row["answer"][0]} for index, row in enumerate(records)]
    return datasets.Dataset.from_list(rows)


def own_data(source: str | Path, samples: int = CALIBRATION_SAMPLES) -> datasets.Dataset:
    """A user's own images and texts, drawn at random, the same each time.

    Args:
        source: a folder of images as `datasets` reads it, with texts in its `metadata.jsonl` (`file_name`, and `text`,
            `question` or `caption`), or a dataset's name on the Hub, of which `train` is read, else the first split.

    Raises:
        ValueError: there is no column of images.
        OSError: there is no image, or the dataset cannot be read.
    """
    if Path(source).is_dir():
        splits = datasets.load_dataset("imagefolder", data_dir=str(source), streaming=True, drop_labels=True)
    else:
        splits = datasets.load_dataset(str(source), streaming=True)
    stream = splits["train"] if "train" in splits else splits[next(iter(splits))]
    columns = stream.features or {}
    images = [name for name, feature in columns.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise ValueError(f"{source} has no column of images to calibrate on, only {', '.join(columns)}")
    texts = next((name for name in ("text", "question", "caption") if name in columns), None)
    chosen = islice(stream.shuffle(seed=SEED, buffer_size=1000), samples)
    pairs = ((row[images[0]], str(row[texts] or "") if texts else "") for row in chosen)
    rows = [{"image": image, "image_id": picture_id(image), "text": text} for image, text in pairs]
    return datasets.Dataset.from_list(rows)


def picture_id(image: Image.Image) -> str:
    """What tells one picture from another: a digest of its pixels."""
    return hashlib.blake2b(image.convert("RGB").tobytes(), digest_size=8).hexdigest()
