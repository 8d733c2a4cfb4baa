"""Options that several commands of `blip-ov` have in common."""

from __future__ import annotations

from collections.abc import Callable

import click

from blip_openvino.apps.blip import IMAGES_AT_ONCE, Blip
from blip_openvino.apps.load import DEFAULT_MODEL, load
from blip_openvino.ir.files import PRECISIONS

model_option = click.option(
    "--model",
    envvar="BLIP_MODEL",
    default=DEFAULT_MODEL,
    show_envvar=True,
    help="A converted folder, a checkpoint's folder or a name on the Hugging Face Hub; the latter two are converted "
    "once into the user's cache directory.",
)
device_option = click.option("--device", default="AUTO", help="As OpenVINO names it: CPU, GPU, ...")
precision_type = click.Choice(PRECISIONS, case_sensitive=False)
precision_option = click.option("--precision", type=precision_type, help="INT8 where it is there, else FP16.")
inference_precision_option = click.option(
    "--inference-precision",
    "ov_config",
    type=click.Choice(["f32", "bf16", "f16"]),
    callback=lambda ctx, option, value: value and {"INFERENCE_PRECISION_HINT": value},
    help="What the device computes in, in place of its own choice.",
)
Decorator = Callable[[Callable], Callable]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in the order in which the help has them."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


image_options = together(
    model_option,
    device_option,
    precision_option,
    inference_precision_option,
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
)
"""What `ask`, `caption` and `match` have in common."""

generation_options = together(
    click.option("--num-beams", type=click.IntRange(1), help="Width of the beam search."),
    click.option(
        "--num-texts",
        "num_return_sequences",
        type=click.IntRange(1),
        help="How many texts for each, with as many beams or with --temperature.",
    ),
    click.option("--max-new-tokens", type=click.IntRange(1), help="Length of the text at most."),
    click.option("--min-new-tokens", type=click.IntRange(0), help="Length of the text at least."),
    click.option(
        "--no-repeat-ngram",
        "no_repeat_ngram_size",
        type=click.IntRange(1),
        help="No so many words in a row twice in a text.",
    ),
    click.option("--temperature", type=click.FloatRange(0, min_open=True), help="Sample at it, not greedily."),
)
"""What `ask` and `caption` have in common: the arguments of a generation."""


def collection_options(text: str) -> Decorator:
    """Where `ask` and `caption` take many images from, and where texts go; `text` is what a table has for each."""
    return together(
        click.option("--list", "list_file", metavar="FILE", help="Take the images that a text file names, one a line."),
        click.option("--table", metavar="FILE", help="Take the images of a Parquet, CSV or JSONL file."),
        click.option("--image-column", metavar="NAME", help="The table's column of paths or bytes.  [default: image]"),
        click.option(f"--{text}-column", "text_column", metavar="NAME", help=f"The table's column with a {text} each."),
        click.option(
            "--output",
            metavar="PLACE",
            help="Add to a file (.jsonl, .csv) or a folder of Parquet parts; go on there.",
        ),
        click.option("--sidecar", metavar="SUFFIX", help="Write a file beside each image: .txt, .caption."),
        click.option("--sidecar-folder", metavar="FOLDER", help="Where sidecars go in place of beside the images."),
        click.option("--metadata", is_flag=True, help="Write each folder's metadata.jsonl, which datasets reads."),
        click.option("--overwrite", is_flag=True, help="Replace what is there, and begin anew."),
        click.option(
            "--cluster",
            metavar="ADDRESS",
            help="Run on a Ray cluster: its address, auto, or local; --output is then a folder that its nodes share.",
        ),
        click.option("--limit", type=click.IntRange(1), help="Take the first so many images."),
        click.option(
            "--batch",
            type=click.IntRange(1, IMAGES_AT_ONCE),
            default=IMAGES_AT_ONCE,
            help="How many images are worked off together.",
        ),
    )


def load_for(options: dict[str, object]) -> tuple[Blip, dict[str, object]]:
    """The model that the options name, and the generation's arguments that they give."""
    blip = load(*(options.pop(name) for name in ("model", "device", "precision", "ov_config")))
    generate = {name: value for name, value in options.items() if value is not None}
    if "temperature" in generate:
        generate["do_sample"] = True
    return blip, generate
