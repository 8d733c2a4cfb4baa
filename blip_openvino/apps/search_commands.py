"""The commands `index` and `search` of `blip-ov`: images made findable once, and found by a text or an image."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont, ImageOps

from blip_openvino.apps.blip import IMAGES_AT_ONCE
from blip_openvino.apps.collections.sources import find_items, read_file
from blip_openvino.apps.errors import extra, rounded
from blip_openvino.apps.load import for_many_images, load
from blip_openvino.apps.options import device_option, precision_option
from blip_openvino.runtime.images import load_image

RETRIEVAL_MODEL = "Salesforce/blip-itm-base-coco"
SHEET_COLUMNS, THUMBNAIL = 5, 220
"""Of the picture that `--show` writes: images in a row, and pixels a side of each."""


@click.command()
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option("--output", required=True, metavar="INDEX", help="The folder of the index, new or to be added to.")
@click.option("--list", "list_file", metavar="FILE", help="Take the images that a text file names, one a line.")
@click.option("--model", help=f"A retrieval checkpoint, as for match.  [default: the index's, else {RETRIEVAL_MODEL}]")
@device_option
@precision_option
def index(
    images: tuple[str, ...], output: str, list_file: str | None, model: str | None, device: str, precision: str | None
) -> None:
    """Make images findable: files, folders, globs and addresses. Only what is new or has changed is encoded.

    \b
    Example: blip-ov index photos --output photos.index
    """
    if not images and not list_file:
        raise click.UsageError("Missing argument 'IMAGE...', or --list in its place.")
    with extra("search"):
        # LanceDB, which only an index needs.
        from blip_openvino.apps.collections.index import ImageIndex, Update
    items = find_items(images, list_file)
    try:
        model = model or ImageIndex(output).model
    except FileNotFoundError:
        model = RETRIEVAL_MODEL
    blip = load(model, device, precision, for_many_images(IMAGES_AT_ONCE))
    found = ImageIndex.create(output, blip, model)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(items), file=sys.stderr, show_pos=True, hidden=hidden) as bar:

        def show(so_far: Update) -> None:
            bar.update(so_far.added + so_far.changed + so_far.unchanged + len(so_far.errors) - bar.pos)

        done = found.update(blip, items, show)
    for path, error in done.errors.items():
        click.echo(f"{path}: {error}", err=True)
    click.echo(
        f"{len(found)} images in {output}: {done.added} added, {done.changed} changed, {done.unchanged} unchanged, "
        f"{done.removed} removed, errors: {len(done.errors)}"
    )
    if done.errors:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("index", metavar="INDEX")
@click.option("--text", help="What the image shall show.")
@click.option("--image", help="An image that it shall be like.")
@click.option("--top", type=click.IntRange(1), default=10, help="How many are shown.")
@click.option("--rerank", type=click.IntRange(0), default=32, help="How many are matched anew.")
@click.option("--show", type=click.Path(path_type=Path), help="Write them into a picture, best first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--model", help="A retrieval checkpoint, as for match.  [default: the index's]")
@device_option
@precision_option
def search(
    index: str,
    text: str | None,
    image: str | None,
    top: int,
    rerank: int,
    show: Path | None,
    as_json: bool,
    model: str | None,
    device: str,
    precision: str | None,
) -> None:
    """Find images by a text or by an image, best first: by contrast, and for a text the first anew by matching.

    \b
    Example: blip-ov search photos.index --text "two white dogs on the beach" --show found.png
    """
    with extra("search"):
        # LanceDB, which only an index needs.
        from blip_openvino.apps.collections.index import ImageIndex
    opened = ImageIndex(index)
    blip = load(model or opened.model, device, precision or opened.precision)
    found = opened.search(blip, text, image, top, rerank)
    for each in found:
        row = {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(each).items()}
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            scores = [f"{name} {row[name]}" for name in ("match", "similarity") if row[name] is not None]
            click.echo(": ".join([each.path, ", ".join(scores)]))
    if show:
        contact_sheet([each.path for each in found]).save(show)


def contact_sheet(paths: list[str]) -> Image.Image:
    """Images in rows, each above its name."""
    line = 20
    rows = -(-len(paths) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * THUMBNAIL, max(1, rows) * (THUMBNAIL + line)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, path in enumerate(paths):
        row, column = divmod(place, SHEET_COLUMNS)
        left, top = column * THUMBNAIL, row * (THUMBNAIL + line)
        picture = ImageOps.contain(load_image(read_file(path)), (THUMBNAIL - 8, THUMBNAIL - 8))
        sheet.paste(picture, (left + 4, top + 4))
        draw.text((left + 4, top + THUMBNAIL), Path(path).name[-30:], "black", font)
    return sheet
