"""The command `blip-ov`: convert, optimize, check and evaluate models; ask, caption and match images; the page."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from blip_openvino.apps.errors import extra, one_line
from blip_openvino.apps.image_commands import ask, caption, match
from blip_openvino.apps.info import bug_report
from blip_openvino.apps.load import (
    DEFAULT_MODEL,
    convert_checkpoint,
    converted_folder,
    load,
    quantize_folder,
)
from blip_openvino.apps.options import device_option, inference_precision_option, precision_option, precision_type
from blip_openvino.apps.search_commands import index, search
from blip_openvino.data.scenes import TEST_SEED
from blip_openvino.evaluate.check import check_folder
from blip_openvino.ir.files import CALIBRATION_SAMPLES, CHECKSUMS, architecture, load_config
from blip_openvino.runtime.processor import OVBlipProcessor


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


@click.group(cls=OneLineErrors, context_settings={"show_default": True})
@click.version_option(package_name="blip-openvino")
def main() -> None:
    """Answer questions about images, caption them and match them with texts: BLIP on OpenVINO.

    \b
    Example: blip-ov ask photo.jpg -q "how many dogs are there?"
    """
    logger = logging.getLogger("blip_openvino")
    logger.setLevel(logging.INFO)
    logger.handlers = [logging.StreamHandler()]  # of this call's standard error


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
@click.option("--samples", type=click.IntRange(1), default=CALIBRATION_SAMPLES)
@click.option("--weights", type=click.Choice(["int8", "int4"]), default="int8", help="The decoder's.")
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
@click.option("--seed", type=click.IntRange(0), default=TEST_SEED, help="Where their seeds begin.")
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


for command in (ask, caption, match, index, search):
    main.add_command(command)


@main.command()
@click.argument("folder", envvar="BLIP_MODEL", default=DEFAULT_MODEL)
@device_option
@precision_option
@click.option("--index", "index_folder", metavar="INDEX", help="Search it on the page, by the model that made it.")
def demo(folder: str, device: str, precision: str | None, index_folder: str | None) -> None:
    """Serve a page to try a model on. FOLDER is what --model is elsewhere, with the same default.

    \b
    Example: blip-ov demo build/blip-vqa-base --device CPU
    """
    with extra("demo"):
        # Gradio, which only the page needs.
        from blip_openvino.apps.page import build_demo, launch_demo
    opened = None
    if index_folder:
        with extra("search"):
            # LanceDB, which only an index needs.
            from blip_openvino.apps.collections.index import ImageIndex
        opened = ImageIndex(index_folder)
        folder, precision = opened.model, precision or opened.precision
    page = build_demo(converted_folder(folder, precision), (), device, precision, opened)
    click.echo(f"The demo is at {launch_demo(page)} (Ctrl+C ends it)")
    page.block_thread()


@main.command()
def info() -> None:
    """Print devices, precisions, instruction sets and versions: what a bug report needs.

    \b
    Example: blip-ov info
    """
    for name, value in bug_report().items():
        click.echo(f"{name}: {value}")
