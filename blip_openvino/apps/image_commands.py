"""The commands `ask`, `caption` and `match` of `blip-ov`: images on the command line, results on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import click

from blip_openvino.apps.blip import Answer
from blip_openvino.apps.collections.command import Collection, write_collection
from blip_openvino.apps.errors import one_line, rounded
from blip_openvino.apps.options import collection_options, generation_options, image_options, load_for
from blip_openvino.runtime.images import load_image

Rows = list[dict[str, object]]


@click.command()
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option("-q", "--question", "questions", multiple=True, help="One, or several by more of this.")
@image_options
@generation_options
@collection_options("question")
def ask(images: tuple[str, ...], questions: tuple[str, ...], as_json: bool, **options) -> None:
    """Answer questions about images; - reads one from standard input.

    With --output or --sidecar IMAGE may also be a folder, a glob or an address such as s3://bucket/photos, and what
    was done before is not done again.

    \b
    Example: blip-ov ask photo.jpg -q "how many dogs are there?" -q "where are they?"
    Example: blip-ov ask photos -q "how many dogs are there?" --output answers.jsonl
    Example: blip-ov ask --table questions.csv --question-column question --output answers.csv
    """
    if not questions and not options["text_column"]:
        raise click.UsageError("Missing option '-q' / '--question', or --question-column of a --table.")
    write("ask", images, questions, as_json, options)


@click.command()
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option("--prompt", help="How each caption begins.")
@image_options
@generation_options
@collection_options("prompt")
def caption(images: tuple[str, ...], prompt: str | None, as_json: bool, **options) -> None:
    """Describe images; - reads one from standard input.

    With --output or --sidecar IMAGE may also be a folder, a glob or an address such as s3://bucket/photos, and what
    was done before is not done again.

    \b
    Example: blip-ov caption photos/*.jpg --json > captions.jsonl
    Example: blip-ov caption photos --output captions.jsonl
    Example: blip-ov caption photos --sidecar .txt --metadata
    """
    write("caption", images, (prompt,) if prompt else (), as_json, options)


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--text", "texts", multiple=True, required=True, help="One, or several by more of this.")
@image_options
def match(images: tuple[str, ...], texts: tuple[str, ...], as_json: bool, **options) -> None:
    """Say how likely texts describe images, from 0 to 1; - reads an image from standard input.

    \b
    Example: blip-ov match photo.jpg --text "a dog on a beach" --model Salesforce/blip-itm-base-coco
    """
    blip, _ = load_for(options)

    def rows(image: object) -> Rows:
        encoded = blip.encode_images(image)
        found = zip(texts, blip.match_all(encoded, texts)[0], blip.similarity(encoded, texts)[0], strict=True)
        return [{"text": text, "match": match, "similarity": similarity} for text, match, similarity in found]

    print_rows(images, rows, as_json)


def write(
    task: Literal["ask", "caption"], images: tuple[str, ...], texts: tuple[str, ...], as_json: bool, options: dict
) -> None:
    """Write answers or captions into files where the options name any, else onto the terminal."""
    collection = Collection.of(images, texts, as_json, options)
    if collection.is_asked:
        write_collection(collection, task, options)
        return
    blip, generate = load_for(options)

    def rows(image: object) -> Rows:
        if task == "ask":
            found = flat(blip.ask(image, texts, **generate))
            return [{"question": each.question, "answer": each.text, "score": each.score} for each in found]
        found = flat(blip.caption(image, texts or [None], **generate))
        return [{"caption": each.text, "score": each.score} for each in found]

    print_rows(images, rows, as_json)


def flat(answers: Sequence[Answer | list[Answer]]) -> list[Answer]:
    """All answers, where there are several of each."""
    return [one for each in answers for one in (each if isinstance(each, list) else [each])]


def print_rows(paths: Sequence[str], rows: Callable[[object], Rows], as_json: bool) -> None:
    """Print what `rows` gives for each image, a line each; a bad image's error, and exit with 1 at the end.

    Several images or texts are told apart by what stands before each result.
    """
    failed = False
    for path in with_progress(paths):
        try:
            image = load_image(sys.stdin.buffer.read() if path == "-" else path)
        except (ValueError, OSError) as error:
            failed, found = True, [{"error": one_line(error)}]
        else:
            found = rows(image)
        for each in found:
            row = {name: value if isinstance(value, str) else rounded(value) for name, value in each.items()}
            if as_json:
                click.echo(json.dumps({"path": path, **row}, ensure_ascii=False))
            else:
                said = [row[name] for name in ("question", "text") if name in row and len(found) > 1]
                result = next(str(row[name]) for name in ("answer", "caption", "match", "error") if name in row)
                before = [path] * (len(paths) > 1 or "error" in row)
                click.echo(": ".join([*before, *said, result]), err="error" in row)
    if failed:
        raise click.exceptions.Exit(1)


def with_progress(paths: Sequence[str]) -> Iterator[str]:
    """The paths one after the other, with a bar on a terminal's last line where there are several."""
    hidden = len(paths) == 1 or not sys.stderr.isatty()
    with click.progressbar(paths, file=sys.stderr, show_pos=True, hidden=hidden) as bar:
        for path in bar:
            if not hidden:
                click.echo("\r\x1b[K", nl=False, err=True)  # results are printed where the bar was
            yield path
