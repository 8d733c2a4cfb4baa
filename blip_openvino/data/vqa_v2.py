"""VQA v2's validation split from the Hugging Face Hub, in two halves that share no image."""

from itertools import islice

import datasets
from tqdm.auto import tqdm

CALIBRATION, SCORING = 0, 1
"""The halves, by the parity of an image's id: what calibrates does not score."""
SCORING_SEED = 7


def vqa_v2_samples(samples: int, seed: int, half: int) -> datasets.Dataset:
    """Samples of VQA v2's validation split, streamed from the Hugging Face Hub: image, image_id, question, answers.

    `lmms-lab/VQAv2` holds it as Parquet (CC BY 4.0, visualqa.org); only the shards that are read are downloaded.
    BLIP was itself fine-tuned on this split (Li et al., 2022, appendix), so a score on it tells precisions of one
    model apart and says little of the model.

    Args:
        half: `CALIBRATION` or `SCORING`.

    Raises:
        OSError: the Hub cannot be reached.
    """
    stream = datasets.load_dataset("lmms-lab/VQAv2", split="validation", streaming=True)
    stream = stream.select_columns(["image", "image_id", "question", "answers"])
    stream = stream.filter(lambda record: record["image_id"] % 2 == half).shuffle(seed=seed, buffer_size=1000)
    records = tqdm(islice(stream, samples), total=samples, desc="downloading samples", unit="sample")
    return datasets.Dataset.from_list(list(records))
