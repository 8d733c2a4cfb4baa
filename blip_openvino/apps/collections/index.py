"""An index of images on disk, searched by a text or by an image: LanceDB keeps a vector of each.

index = ImageIndex.create("photos.index", blip, "Salesforce/blip-itm-base-coco")
index.update(blip, find_items(["photos"]))
for found in index.search(blip, text="two white dogs on the beach"):
    print(found.path, found.similarity, found.match)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from blip_openvino.apps.blip import Blip, best_matches
from blip_openvino.apps.collections.pipeline import batched
from blip_openvino.apps.collections.sources import Item, filesystem, is_address, read_file
from blip_openvino.apps.errors import one_line
from blip_openvino.runtime.images import ImageSource, load_image

logger = logging.getLogger(__name__)

TABLE = "images"
WRITTEN_AT_ONCE = 32
"""How many images are written together, and how many an interruption loses at most."""


@dataclass(frozen=True)
class Found:
    """An image of an index: the cosine of its features and the query's, and how likely the text describes it."""

    path: str
    similarity: float
    match: float | None = None
    """From 0 to 1; None where an image was searched for, or this one was not among the first to be re-ranked."""


@dataclass
class Update:
    """What an update found and did; `errors` are by path, one line each."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    errors: dict[str, str] = field(default_factory=dict)


class ImageIndex:
    """Features of images in a folder, made by one checkpoint at one precision; no other is taken for a search.

    What is there is whole whenever the process dies: LanceDB writes a new version beside the old one.
    """

    def __init__(self, folder: str | Path):
        """Open an index.

        Raises:
            FileNotFoundError: there is none.
        """
        self.folder = Path(folder)
        if not (self.folder / f"{TABLE}.lance").is_dir():
            raise FileNotFoundError(f"{folder} is no index: make one with blip-ov index IMAGES --output {folder}")
        self._table = lancedb.connect(self.folder).open_table(TABLE)
        self._read: tuple[int, pa.ChunkedArray, np.ndarray] | None = None

    @classmethod
    def create(cls, folder: str | Path, blip: Blip, model: str) -> ImageIndex:
        """Make an empty index for a retrieval checkpoint, whose name or folder is `model`, or open the one there."""
        if not (Path(folder) / f"{TABLE}.lance").is_dir():
            if Path(folder).is_dir() and any(Path(folder).iterdir()):
                raise ValueError(f"{folder} has other files in it: give a new folder for the index")
            [feature] = blip.model.text_features(**blip.processor(text="a"))
            columns = [
                pa.field("path", pa.string(), nullable=False),
                pa.field("stamp", pa.string()),
                pa.field("vector", pa.list_(pa.float32(), len(feature))),
                pa.field("error", pa.string()),
            ]
            schema = pa.schema(columns, metadata=identity(blip) | {"model": model})
            lancedb.connect(folder).create_table(TABLE, schema=schema)
        return cls(folder)

    @property
    def precision(self) -> str:
        """The precision that it was made at."""
        return self._metadata()["precision"]

    def __len__(self) -> int:
        """How many images can be found."""
        return self._table.count_rows("error IS NULL")

    @property
    def model(self) -> str:
        """The name or folder of the checkpoint that it was made by."""
        return self._metadata()["model"]

    def update(
        self, blip: Blip, items: Iterable[Item], progress: Callable[[Update], None] = lambda so_far: None
    ) -> Update:
        """Add images, encode those anew that have changed since, and remove those that are gone.

        An image that cannot be read is a row with its error, and tried again by the next update. `progress` is called
        with what was done so far.

        Raises:
            ValueError: the index was made by another model.
        """
        self._check(blip)
        known, given = self._stamps(), {item.path: item for item in items}
        stamps = {path: stamp_of(path) for path in given}
        stale = [item for path, item in given.items() if stamps[path] is None or stamps[path] != known.get(path)]
        update = Update(unchanged=len(given) - len(stale))
        for batch in batched(stale, WRITTEN_AT_ONCE):
            self._write(blip, batch, stamps, known, update)
            progress(update)
        gone = [path for path in known if stamps.get(path) is None and stamp_of(path) is None]
        for some in batched(gone, 1000):
            quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in some)
            self._table.delete(f"path IN ({quoted})")
        update.removed = len(gone)
        self._table.optimize()
        progress(update)
        return update

    def search(
        self,
        blip: Blip,
        text: str | None = None,
        image: ImageSource | None = None,
        top: int = 10,
        rerank: int = 32,
    ) -> list[Found]:
        """The `top` images that a text describes best, or that are most like an image; best first.

        All are ranked by contrast. For a text the first `rerank` of them are read, encoded and ranked anew by matching
        (Li et al., 2022, section 4.1); those that can no longer be read are left out, and a warning says so.

        Raises:
            ValueError: the index was made by another model, or there is not one of text and image.
            OSError: the image cannot be read.
        """
        self._check(blip)
        if (text is None) == (image is None):
            raise ValueError("search for a text or for an image: give one of them")
        if image is not None:
            [vector] = blip.encode_images(image).features
            return self._nearest(vector, top)
        [vector] = blip.model.text_features(**blip.processor(text=text))
        nearest = self._nearest(vector, max(top, rerank))
        pictures = {found.path: picture for found in nearest[:rerank] if (picture := readable(found.path)) is not None}
        kept = [found for index, found in enumerate(nearest) if index >= rerank or found.path in pictures]
        encoded = blip.encode_images(list(pictures.values())) if pictures else None
        similarity = np.array([found.similarity for found in kept])
        best = best_matches(similarity, lambda chosen: blip.match(encoded[chosen], [text]), top, len(pictures))
        return [Found(kept[each.index].path, each.similarity, each.match) for each in best]

    def _nearest(self, vector: np.ndarray, count: int) -> list[Found]:
        paths, vectors = self._vectors()
        similarity, count = vectors @ vector, min(count, len(vectors))
        nearest = np.argpartition(-similarity, count - 1)[:count] if count else []
        best = sorted(map(int, nearest), key=lambda row: -similarity[row])
        return [Found(paths[row].as_py(), float(similarity[row])) for row in best]

    def _vectors(self) -> tuple[pa.ChunkedArray, np.ndarray]:
        """Paths and vectors [N, projection] of the images that can be found, read once and again after an update.

        Compared in memory, 100,000 take a fifteenth of the time that LanceDB needs to scan them.
        """
        if self._read is None or self._read[0] != self._table.version:
            version = self._table.version
            rows = self._table.search().where("vector IS NOT NULL").select(["path", "vector"])
            found = rows.limit(self._table.count_rows()).to_arrow()
            width = found.schema.field("vector").type.list_size
            vectors = pc.list_flatten(found["vector"]).to_numpy().reshape(-1, width)
            self._read = version, found["path"], vectors
        return self._read[1:]

    def _write(
        self,
        blip: Blip,
        items: list[Item],
        stamps: Mapping[str, str | None],
        known: Mapping[str, str | None],
        update: Update,
    ) -> None:
        """Encode some images and write their rows; what is done is added to `update`."""
        rows, pictures = [], []
        for item in items:
            row = {"path": item.path, "stamp": stamps[item.path], "vector": None, "error": None}
            try:
                pictures.append(load_image(item.read()))
            except (ValueError, OSError) as error:
                row |= {"stamp": None, "error": one_line(error)}
                update.errors[item.path] = row["error"]
            else:
                update.changed += item.path in known
                update.added += item.path not in known
            rows.append(row)
        features = iter(blip.encode_images(pictures).features if pictures else ())
        for row in rows:
            row["vector"] = None if row["error"] else next(features).tolist()
        writer = self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all()
        writer.execute(pa.Table.from_pylist(rows, schema=self._table.schema), on_bad_vectors="null")

    def _stamps(self) -> dict[str, str | None]:
        """What each image was when it was read; None where it could not be."""
        table = self._table.search().select(["path", "stamp"]).limit(self._table.count_rows()).to_arrow()
        return dict(zip(table["path"].to_pylist(), table["stamp"].to_pylist(), strict=True))

    def _metadata(self) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in (self._table.schema.metadata or {}).items()}

    def _check(self, blip: Blip) -> None:
        made_by = self._metadata()
        for key, value in identity(blip).items():
            if made_by[key] != value:
                raise ValueError(
                    f"{self.folder} was made by {key} {made_by[key]} ({made_by['model']}), and this is {value}: "
                    "load that, or make another index"
                )


def identity(blip: Blip) -> dict[str, str]:
    """What features depend on: the checkpoint and the precision."""
    return {"checkpoint": blip.model.config.openvino_checkpoint, "precision": blip.model.precision}


def stamp_of(path: str) -> str | None:
    """What changes when a file does: its size, and when it was written or its tag; None where it is gone."""
    try:
        if not is_address(path):
            status = os.stat(path)
            return f"{status.st_size}-{status.st_mtime_ns}"
        fs, inner = filesystem(path)
        info = fs.info(inner)
    except FileNotFoundError:
        return None
    return "-".join(str(info.get(key, "")) for key in ("size", "ETag", "etag", "LastModified", "mtime"))


def readable(path: str) -> Image.Image | None:
    """The image of a path, or None and a warning where it can no longer be read."""
    try:
        return load_image(read_file(path))
    except (ValueError, OSError) as error:
        logger.warning("%s is left out, since it cannot be read: %s", path, error)
        return None
