"""The command `blip-ov`: convert, optimize, check and evaluate models; ask, caption and match images; the page."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from blip_openvino.apps.blip import Blip
from blip_openvino.apps.info import bug_report
from blip_openvino.apps.load import (
    DEFAULT_MODEL,
    convert_checkpoint,
    converted_folder,
    extra,
    load,
    quantize_folder,
)
from blip_openvino.data.scenes import TEST_SEED
from blip_openvino.evaluate.check import check_folder
from blip_openvino.ir.files import CALIBRATION_SAMPLES, CHECKSUMS, PRECISIONS, architecture, load_config
from blip_openvino.runtime.images import load_image
from blip_openvino.runtime.processor import OVBlipProcessor

Rows = list[dict[str, object]]


class EchoHandler(logging.Handler):
    """Prints what the library logs on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        click.echo(self.format(record), err=True)


class OneLineErrors(click.Group):
    """A group whose commands end in one line and exit code 1 where the library raises what a caller can mend."""

    def invoke(self, ctx: click.Context) -> object:
        """See `click.Group`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # of `| head`, which click ends quietly
            raise
        except (ValueError, OSError, ImportError) as error:
            raise click.ClickException(one_line(error)) from error


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


model_option = click.option(
    "--model",
    envvar="BLIP_MODEL",
    default=DEFAULT_MODEL,
    show_default=True,
    show_envvar=True,
    help="A converted folder, a checkpoint's folder or a name on the Hugging Face Hub; the latter two are converted "
    "once into the user's cache directory.",
)
device_option = click.option("--device", default="AUTO", show_default=True, help="As OpenVINO names it: CPU, GPU, ...")
precision_type = click.Choice(PRECISIONS, case_sensitive=False)
precision_option = click.option("--precision", type=precision_type, help="INT8 where it is there, else FP16.")
inference_precision_option = click.option(
    "--inference-precision",
    "ov_config",
    type=click.Choice(["f32", "bf16", "f16"]),
    callback=lambda ctx, option, value: value and {"INFERENCE_PRECISION_HINT": value},
    help="What the device computes in, in place of its own choice.",
)


def image_options(command: Callable) -> Callable:
    """What `ask`, `caption` and `match` have in common."""
    json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
    for option in (json_option, inference_precision_option, precision_option, device_option, model_option):
        command = option(command)
    return click.argument("images", nargs=-1, required=True, metavar="IMAGE...")(command)


def generation_options(command: Callable) -> Callable:
    """What `ask` and `caption` have in common."""
    for option in (
        click.option("--temperature", type=click.FloatRange(0, min_open=True), help="Sample at it, not greedily."),
        click.option("--max-new-tokens", type=click.IntRange(1), help="Length of the text at most."),
        click.option("--num-beams", type=click.IntRange(1), help="Width of the beam search."),
    ):
        command = option(command)
    return command


@click.group(cls=OneLineErrors)
@click.version_option(package_name="blip-openvino")
def main() -> None:
    """Answer questions about images, caption them and match them with texts: BLIP on OpenVINO.

    \b
    Example: blip-ov ask photo.jpg -q "how many dogs are there?"
    """
    logger = logging.getLogger("blip_openvino")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(EchoHandler())


@main.command()
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), help="A folder.  [default: build/ and the model's name]")
@click.option("--image-size", type=click.IntRange(1), help="Pixels a side, where other than it was trained on.")
def convert(model: str, output: Path | None, image_size: int | None) -> None:
    """Convert a checkpoint, a folder or a name on the Hugging Face Hub, to OpenVINO, and check what came out.

    \b
    Example: blip-ov convert Salesforce/blip-vqa-base --output blip-vqa-base
    """
    name = Path(model).resolve().name + (f"-{image_size}" if image_size else "")
    folder = convert_checkpoint(model, output or Path("build") / name, image_size)
    click.echo(f"{folder} is ready")
    report_check(folder, "AUTO", "FP16")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--samples", type=click.IntRange(1), default=CALIBRATION_SAMPLES, show_default=True)
@click.option(
    "--weights", type=click.Choice(["int8", "int4"]), default="int8", show_default=True, help="The decoder's."
)
@click.option(
    "--data",
    help="Calibrate on your own: a folder of images, their texts in metadata.jsonl, or a dataset's name on the Hugging "
    "Face Hub.",
)
def optimize(folder: Path, samples: int, weights: str, data: str | None) -> None:
    """Quantize a converted folder, beside what is there, and check what came out.

    \b
    Example: blip-ov optimize build/blip-vqa-base --data my-photos
    """
    quantize_folder(folder, weights, samples, data)
    click.echo(f"{folder} has its quantized models")
    report_check(folder, "AUTO", weights.upper())


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@device_option
@precision_option
@inference_precision_option
def check(folder: Path, device: str, precision: str | None, ov_config: dict[str, str] | None) -> None:
    """Say whether a converted folder is right on this machine, going by what PyTorch said; exit code 1 if not.

    \b
    Example: blip-ov check build/blip-vqa-base --device GPU
    """
    report_check(folder, device, precision, ov_config)


def report_check(folder: Path, device: str, precision: str | None, ov_config: dict[str, str] | None = None) -> None:
    """Print the check's table; exit with 1 where it does not pass."""
    report = check_folder(folder, device, precision, ov_config)
    click.echo(str(report))
    if not report.passed:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@device_option
@click.option("--precision", "precisions", type=precision_type, multiple=True, help="Several compare with the first.")
@inference_precision_option
@click.option("--scenes", type=click.IntRange(1), help="On how many drawn scenes.  [default: 2000]")
@click.option("--seed", type=click.IntRange(0), default=TEST_SEED, show_default=True, help="Where their seeds begin.")
def evaluate(
    folder: Path,
    device: str,
    precisions: tuple[str, ...],
    ov_config: dict[str, str] | None,
    scenes: int | None,
    seed: int,
) -> None:
    """Measure accuracy on data that suits a model: drawn scenes, easy-VQA, or VQA v2 for photographs.

    FOLDER is a converted one, or a checkpoint's, which is measured in PyTorch.

    \b
    Example: blip-ov evaluate build/blip-vqa-base --precision FP16 --precision INT8
    """
    with extra("convert"):
        # datasets and PyTorch, which only measuring needs.
        from blip_openvino.evaluate.accuracy import easy_vqa_accuracy, measure_accuracy
        from blip_openvino.ir.checkpoint import TorchBlip, load_checkpoint
    if (folder / CHECKSUMS).exists():
        models = {each or "default": load(folder, device, each, ov_config).model for each in precisions or (None,)}
        config = load_config(folder)
    elif not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give a converted one, or a checkpoint's")
    elif precisions:
        raise ValueError(f"{folder} is a checkpoint's folder: convert it first, and name the converted one")
    else:
        checkpoint = load_checkpoint(folder)
        models, config = {"PyTorch": TorchBlip(checkpoint)}, checkpoint.config
    processor = OVBlipProcessor.from_pretrained(folder)
    measures = measure_accuracy(models, processor, config, scenes, seed)
    if getattr(config, "trained_on", None) == "scenes" and architecture(config).answers:
        # What others made is measured too: its training split was among what the model was trained on.
        measures |= {f"easy-VQA {name}": scores for name, scores in easy_vqa_accuracy(models, processor).items()}
    for measure, scores in measures.items():
        click.echo(f"{measure}: " + ", ".join(f"{name} {score}" for name, score in scores.items()))


@main.command()
@image_options
@click.option("-q", "--question", "questions", multiple=True, required=True, help="One, or several by more of this.")
@generation_options
def ask(images: tuple[str, ...], questions: tuple[str, ...], as_json: bool, **options) -> None:
    """Answer questions about images; - reads one from standard input.

    \b
    Example: blip-ov ask photo.jpg -q "how many dogs are there?" -q "where are they?"
    """
    blip, generate = load_for(options)

    def rows(image: object) -> Rows:
        answers = blip.ask(image, questions, **generate)
        return [{"question": answer.question, "answer": answer.text, "score": answer.score} for answer in answers]

    print_rows(images, rows, as_json)


@main.command()
@image_options
@click.option("--prompt", help="How each caption begins.")
@generation_options
def caption(images: tuple[str, ...], prompt: str | None, as_json: bool, **options) -> None:
    """Describe images; - reads one from standard input.

    \b
    Example: blip-ov caption photos/*.jpg --json > captions.jsonl
    """
    blip, generate = load_for(options)

    def rows(image: object) -> Rows:
        found = blip.caption(image, prompt, **generate)
        return [{"caption": found.text, "score": found.score}]

    print_rows(images, rows, as_json)


@main.command()
@image_options
@click.option("--text", "texts", multiple=True, required=True, help="One, or several by more of this.")
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


def load_for(options: dict) -> tuple[Blip, dict[str, object]]:
    """The model that the options name, and the generation's arguments that they give."""
    blip = load(*(options.pop(name) for name in ("model", "device", "precision", "ov_config")))
    generate = {name: value for name, value in options.items() if value is not None}
    if "temperature" in generate:
        generate["do_sample"] = True
    return blip, generate


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
            with extra("convert"):  # beams and sampling are done with PyTorch and transformers
                found = rows(image)
        for each in found:
            row = {name: value if isinstance(value, str) else rounded(value) for name, value in each.items()}
            if as_json:
                click.echo(json.dumps({"path": path, **row}, ensure_ascii=False))
            else:
                said = [str(row[name]) for name in ("question", "text") if name in row and len(found) > 1]
                result = next(str(row[name]) for name in ("answer", "caption", "match", "error") if name in row)
                before = [path] * (len(paths) > 1 or "error" in row)
                click.echo(": ".join([*before, *said, result]), err="error" in row)
    if failed:
        raise click.exceptions.Exit(1)


def rounded(number: float) -> float:
    """To four digits, and never -0.0."""
    return round(float(number), 4) + 0.0


def with_progress(paths: Sequence[str]) -> Iterator[str]:
    """The paths one after the other, with a bar on a terminal's last line where there are several."""
    on_terminal = sys.stderr.isatty()
    with click.progressbar(paths, file=sys.stderr, show_pos=True, hidden=not on_terminal or len(paths) == 1) as bar:
        for path in bar:
            if not bar.hidden:
                click.echo("\r\x1b[K", nl=False, err=True)  # results are printed where the bar was
            yield path


@main.command()
@click.argument("folder", envvar="BLIP_MODEL", default=DEFAULT_MODEL)
@device_option
@precision_option
def demo(folder: str, device: str, precision: str | None) -> None:
    """Serve a page to try a model on. FOLDER is what --model is elsewhere, with the same default.

    \b
    Example: blip-ov demo build/blip-vqa-base --device CPU
    """
    with extra("demo"):
        # Gradio, which only the page needs.
        from blip_openvino.apps.page import build_demo, launch_demo
    page = build_demo(converted_folder(folder, precision), (), device, precision)
    click.echo(f"The demo is at {launch_demo(page, prevent_thread_lock=True)} (Ctrl+C ends it)")
    page.block_thread()


@main.command()
def info() -> None:
    """Print devices, precisions, instruction sets and versions: what a bug report needs.

    \b
    Example: blip-ov info
    """
    for name, value in bug_report().items():
        click.echo(f"{name}: {value}")
