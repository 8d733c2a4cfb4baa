"""A page to try a converted model on: an image and a question in, the answer out; without a question, a caption.

python blip_demo.py build/blip-easy-vqa --device CPU
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before gradio is imported: it reads this once, and a page on one's own machine has nothing to report. Nor need it keep
# statistics of its last 10,000 requests, which it would sum up anew after each one.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ |= {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}

import gradio as gr

from blip_openvino.apps.page import (
    CSS,
    EXAMPLES,
    HISTORY,
    NOTE,
    REPLY,
    THEME,
    model_note,
    plain_view,
    shown,
    stage_line,
)
from blip_openvino.apps.session import (
    BEAMS_LIMIT,
    NEW_TOKENS_LIMIT,
    TEMPERATURE_LIMIT,
    ModelFolder,
    Options,
    Reply,
    Task,
    ask,
)
from blip_openvino.ir.easy_vqa import load_questions
from notebook_utils import DownloadError, download_file

DEMO_PHOTO = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"
EMBEDDED_MODEL = "models/blip-easy-vqa"
MAX_FILE_SIZE = "50mb"
CONCURRENCY = 8
"""Requests computed at once; more wait in the queue, which has no limit."""
CACHE_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Wording:
    """What the page calls things, by what the model can do."""

    label: str
    info: str
    button: str
    result: str
    example_texts: tuple[str, ...] = ()


WORDINGS: dict[Task, Wording] = {
    "answer": Wording("Question", "Leave it empty for a caption. Enter asks.", "Ask", "Answer"),
    "caption": Wording(
        "Beginning of the caption",
        "This model captions and answers no questions. Leave it empty for a caption of its own.",
        "Caption",
        "Caption",
        ("", "a photo of"),
    ),
    "match": Wording(
        "Text",
        "This model writes nothing: it says how likely a text describes the image.",
        "Match",
        "Probability that the text describes the image",
        ("a woman and a dog on a beach", "a bowl of fruit on a table"),
    ),
}


def example_inputs(model_id: str | Path, directory: str | Path = "build") -> list[tuple[str, str]]:
    """Images and questions that suit a model, as (path, question) pairs.

    The embedded model knows pictures of easy-VQA, whose test split is used; every other model gets the photo of the
    BLIP authors' demo, downloaded into `directory`.

    Raises:
        notebook_utils.DownloadError: the photo cannot be downloaded.
    """
    if Path(model_id).name == Path(EMBEDDED_MODEL).name:
        paths = {question.image_id: question.image_path for question in load_questions("test")}
        asked = {0: "what color is the shape?", 6: "is there a circle?", 11: "what shape is in the image?"}
        return [(paths[image_id], question) for image_id, question in asked.items()]
    photo = str(download_file(DEMO_PHOTO, "demo.jpg", directory))
    return [(photo, "how many dogs are in the picture?"), (photo, "where is the woman sitting?")]


def build_demo(
    folder: str | Path,
    examples: Sequence[tuple[str, str]] = (),
    device: str = "AUTO",
    precision: str | None = None,
) -> gr.Blocks:
    """The demo page for a converted folder; `launch_demo` serves it.

    Args:
        folder: made by `blip_convert`.
        examples: (image path, question) pairs to click; a model that takes no questions gets texts that suit it.
        device, precision: what is chosen when the page opens; None is INT8 where it is there.

    Raises:
        FileNotFoundError: the folder is no converted model.
        ValueError: it is a PyTorch checkpoint, or there is no such device or precision, or the files cannot be used.
    """
    models = ModelFolder(folder)
    precision = precision or models.default_precision
    models.load(device, precision)
    words = WORDINGS[models.task]

    def replies(image: str | None, question: str | None, device: str, precision: str, *options) -> Iterator[Reply]:
        return ask(models, image_bytes(image), question or "", device, precision, Options(*options))

    def answer(image, question, device, precision, max_new_tokens, num_beams, temperature, top_p):
        """Answer a question about an image; without a question, caption it.

        Yields the text so far and the milliseconds of each stage, then both whole.
        """
        try:
            for reply in replies(image, question, device, precision, max_new_tokens, num_beams, temperature, top_p):
                yield reply.text, reply.milliseconds | {"image reused": reply.image_reused}
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def show(history, image, question, device, precision, *options):
        """The same for the page, where an error is shown as text and the history stays."""
        try:
            for reply in replies(image, question, device, precision, *options):
                turns = [*history, [question, reply.text]] if reply.is_final else history
                yield shown(reply.text, stage_line(reply, device, precision), is_final=reply.is_final), turns
        except (ValueError, OSError) as error:
            yield shown(problem=str(error)), history

    with gr.Blocks(title="BLIP with OpenVINO", analytics_enabled=False, delete_cache=(3600, CACHE_SECONDS)) as demo:
        plain_view(NOTE, model_note(models))
        with gr.Row():
            with gr.Column():
                # The file as it was sent: gradio's own decoding would come before ours and fail without saying why.
                image = gr.Image(
                    type="filepath", image_mode=None, label="Image", height=320, buttons=[], alt_text="The chosen image"
                )
                image.preprocess = uploaded_path
                examples_box = gr.Column(elem_id="examples", visible=bool(examples))
            with gr.Column():
                question = gr.Textbox("", label=words.label, info=words.info, lines=1, max_lines=4)
                button = gr.Button(words.button, variant="primary")
                result = plain_view(REPLY, shown(), heading=words.result)
                history = plain_view(HISTORY, [])
        with examples_box:
            add_examples(examples, words, image, question)
        with gr.Row():
            devices = gr.Dropdown(models.devices, value=device, label="Device")
            precisions = gr.Dropdown(models.precisions, value=precision, label="Precision")
        with gr.Accordion("Generation options", open=False, visible=models.task != "match"):
            sliders = option_sliders()
        inputs = [image, question, devices, precisions, *sliders]
        asked = gr.on(
            [button.click, question.submit],
            show,
            inputs=[history, *inputs],
            outputs=[result, history],
            show_progress="hidden",
            # Who asks while an answer is still coming gets the next one after it.
            trigger_mode="always_last",
            api_visibility="private",
        )
        # In the browser, at once: what the server still says about the old image is no longer waited for.
        image.change(None, js=f"() => [{json.dumps(shown())}, []]", outputs=[result, history], cancels=[asked])
        gr.on(
            [],
            answer,
            inputs=inputs,
            outputs=[gr.Textbox(label="answer", visible=False), gr.JSON(label="milliseconds", visible=False)],
            api_name="answer",
        )
    return demo.queue(default_concurrency_limit=CONCURRENCY)


def uploaded_path(payload) -> str | None:
    """The path of an uploaded file, as it was sent; gradio has made sure by then that it is one."""
    return payload and payload.path


def image_bytes(path: str | None) -> bytes:
    """The uploaded file.

    Raises:
        ValueError: there is none.
    """
    if path is None:
        raise ValueError("There is no image: upload one or click an example.")
    return Path(path).read_bytes()


def add_examples(examples: Sequence[tuple[str, str]], words: Wording, image: gr.Image, question: gr.Textbox) -> None:
    """Buttons that fill in an image and a question."""
    if words.example_texts:
        examples = [(path, text) for path in dict(examples) for text in words.example_texts]
    plain_view(EXAMPLES)
    for path, text in examples:
        # Pages are given files of this cache only; without the second line it would forget them after a day.
        served = image.move_resource_to_block_cache(path)
        image.keep_in_cache.add(served)
        button = gr.Button(text or "(a caption)", icon=path, size="sm")
        button.click(
            lambda served=served, text=text: (served, text), outputs=[image, question], api_visibility="private"
        )


def option_sliders() -> list[gr.Slider]:
    """One for each field of `Options`, in their order."""
    usual = Options()
    return [
        gr.Slider(1, NEW_TOKENS_LIMIT, usual.max_new_tokens, step=1, precision=0, label="Max new tokens"),
        gr.Slider(1, BEAMS_LIMIT, usual.num_beams, step=1, precision=0, label="Beams"),
        gr.Slider(0, TEMPERATURE_LIMIT, usual.temperature, step=0.05, label="Temperature", info="0: no sampling"),
        gr.Slider(0.05, 1, usual.top_p, step=0.05, label="Top-p", info="When sampling, from the likeliest this share"),
    ]


def launch_demo(demo: gr.Blocks, **options) -> str:
    """Serve the page on this machine only and return its address; in a notebook it shows below the cell."""
    _, address, _ = demo.launch(
        server_name="127.0.0.1",
        share=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        max_file_size=MAX_FILE_SIZE,
        footer_links=["api"],
        theme=THEME,
        css=CSS,
        quiet=True,
        **options,
    )
    return address


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo page for a converted BLIP model.")
    parser.add_argument("folder", type=Path, help="a folder that blip_convert.py made")
    parser.add_argument("--device", default="AUTO", help="an OpenVINO device (default: AUTO)")
    arguments = parser.parse_args()
    try:
        examples = example_inputs(arguments.folder)
    except DownloadError as error:
        print(f"The page has no examples: {error}")
        examples = []
    demo = build_demo(arguments.folder, examples, arguments.device)
    print(f"The demo is at {launch_demo(demo, prevent_thread_lock=True)} (Ctrl+C ends it)")
    demo.block_thread()


if __name__ == "__main__":
    main()
