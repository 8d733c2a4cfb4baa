"""A page to try a converted model on: an image and a question in, the answer out; without a question, a caption.

demo = build_demo("build/blip-vqa-base", [("photo.jpg", "how many dogs are there?")])
print(launch_demo(demo))
demo.block_thread()  # in a script
"""

import json
import os
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported

import gradio as gr
import openvino as ov

from blip_openvino.apps.ask import ModelFolder
from blip_openvino.apps.collections.sources import read_file
from blip_openvino.runtime.images import load_image

if TYPE_CHECKING:
    from blip_openvino.apps.collections.index import ImageIndex

# Gradio keeps uploads of all processes in one folder, by content, and a page that closes deletes its own: of two pages
# with the same photo one would take the other's. This folder is this process's, and goes with it.
UPLOADS = TemporaryDirectory(prefix="blip-ov-page-")
os.environ["GRADIO_TEMP_DIR"] = UPLOADS.name

CONCURRENCY = 8  # requests computed at once; more wait
DAY = 24 * 60 * 60  # seconds that uploaded files are kept
FOUND = 5  # images that a search shows
HEADERS = ["Question", "Answer"]
# By architecture: what the text is called, a hint on it, the button and what it gives; a text for examples' images.
LABELS = {
    "BlipForQuestionAnswering": ("Question", "Leave it empty for a caption. Enter asks.", "Ask", "Answer", None),
    "BlipForConditionalGeneration": ("Beginning of the caption", "Or leave it empty.", "Caption", "Caption", "a photo"),
    "BlipForImageTextRetrieval": ("Text", "Does it describe the image?", "Match", "Probability", "a dog on a beach"),
}
SCENES_ONLY = (
    "This model was trained on drawn scenes alone: places, weather, animals, vehicles, people and signs, as in the "
    "examples. What it says of a photo means nothing."
)


def build_demo(
    folder: str | Path,
    examples: Sequence[tuple[str, str]] = (),
    device: str = "AUTO",
    precision: str | None = None,
    index: "ImageIndex | None" = None,
) -> gr.Blocks:
    """The demo page for a converted folder; `launch_demo` serves it.

    Args:
        examples: (image path, question) pairs to click; a model that takes no questions gets a text that suits it.
        device, precision: what is chosen when the page opens; None is INT8 where it is there.
        index: of a retrieval checkpoint, to search when no images are uploaded.

    Raises:
        FileNotFoundError: the folder is no converted model, or has no such precision.
        ValueError: there is no such device or precision, it fails the check, or the files cannot be used.
    """
    models = ModelFolder(folder)
    precision = precision or ("INT8" if "INT8" in models.precisions() else "FP16")
    blip, _ = models.load(device, precision, {})
    architecture, writes = models.config.architectures[0], blip.model.text_decoder is not None
    text_label, hint, button_label, reply_label, example_text = LABELS[architecture]
    if example_text:
        examples = [(path, example_text) for path in dict(examples)]

    def answer(image, question, device, precision, max_new_tokens, num_beams, temperature, top_p):
        """Answer a question about an image; without a question, caption it.

        Yields the text so far and the milliseconds of each stage, then both whole.
        """
        # Top-p is the only cut on what is drawn from; transformers would add the 50 likeliest tokens.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
        options = {"max_new_tokens": max_new_tokens, "num_beams": num_beams} | sampling
        try:
            if image is None:
                raise ValueError("There is no image: upload one or click an example.")
            yield from models.ask(image, question or "", device, precision, **options)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def show(history, image, question, device, precision, *options):
        """The same for the page, where an error is text in the answer's place and the history stays."""
        yield "…", f"{device} {precision}", history
        try:
            with closing(answer(image, question, device, precision, *options)) as replies:
                for text, milliseconds in replies:
                    yield text or "…", f"{device} {precision}: {stage_line(milliseconds)}", history
            yield text, gr.skip(), [[question.strip() or "(a caption)", text], *history]
        except gr.Error as error:
            yield f"⚠ {error.message}", "", history

    with gr.Blocks(title="BLIP with OpenVINO", analytics_enabled=False, delete_cache=(DAY, DAY)) as demo:
        limits = SCENES_ONLY if getattr(models.config, "trained_on", None) == "scenes" else ""
        gr.Markdown(f"# BLIP with OpenVINO\n\n{limits}")
        with gr.Row():
            name = f"{models.folder.name}, {architecture}"
            gr.Textbox(name, label="Model", interactive=False, scale=2, min_width=320)
            devices = dict.fromkeys([*ov.Core().available_devices, "AUTO", device])
            chosen = [
                gr.Dropdown(list(devices), value=device, label="Device"),
                gr.Dropdown(models.precisions(), value=precision, label="Precision"),
            ]
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="filepath", label="Image", height=320, buttons=[], alt_text="The chosen image")
                # The file as it was sent: gradio's own decoding would come first and fail without saying why.
                image.preprocess = lambda payload: payload and payload.path
                question = gr.Textbox("", label=text_label, info=hint, lines=1, max_lines=4, render=False)
                if examples:
                    labels, pairs = [text for _, text in examples], [list(pair) for pair in examples]
                    gr.Examples(pairs, [image, question], example_labels=labels, api_visibility="private")
            with gr.Column():
                question.render()
                button = gr.Button(button_label, variant="primary")
                reply = gr.Textbox(label=reply_label, lines=2, max_lines=20, interactive=False)
                stages = gr.Textbox(label="Time", lines=2, interactive=False)
        with gr.Accordion("Generation options", open=False, visible=writes), gr.Row():
            options = [
                gr.Slider(1, 100, 20, step=1, precision=0, label="Max new tokens"),
                gr.Slider(1, 10, 1, step=1, precision=0, label="Beams"),
                gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: no sampling"),
                gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="When sampling, from the likeliest this share"),
            ]
        history = gr.Dataframe(
            headers=HEADERS,
            type="array",
            label="Asked about this image",
            interactive=False,
            wrap=True,
            column_widths=["60%", "40%"],
        )
        if not writes:
            add_search(models, chosen, index)
        inputs = [image, question, *chosen, *options]
        asked = gr.on(
            [button.click, question.submit],
            show,
            inputs=[history, *inputs],
            outputs=[reply, stages, history],
            show_progress="hidden",
            trigger_mode="always_last",  # who asks while an answer is still coming gets the next one after it
            api_visibility="private",
        )
        # In the browser, at once: what the server still says about the old image is no longer waited for.
        nothing = json.dumps(["", "", {"headers": HEADERS, "data": [], "metadata": None}])
        image.change(None, js=f"() => {nothing}", outputs=[reply, stages, history], cancels=[asked])
        gr.on([], answer, inputs, [reply, gr.JSON(label="milliseconds", visible=False)], api_name="answer")
    return demo.queue(default_concurrency_limit=CONCURRENCY)


def add_search(models: ModelFolder, chosen: list[gr.Dropdown], index: "ImageIndex | None") -> None:
    """The part of a retrieval checkpoint's page that looks for the images that a text describes."""

    def search(images, text, device, precision):
        """The images that a text describes best, best first: ranked by contrast, the first ones anew by matching."""
        text = (text or "").strip()
        try:
            if not text or not (images or index):
                raise ValueError("Search needs images to look through and a text that describes one: give both.")
            if images:
                found = models.search(images, text, device, precision, FOUND)
                pictures = [images[each.index] for each in found]
            else:
                blip, _ = models.load(device, precision, {})
                found = index.search(blip, text, top=FOUND)
                pictures = [load_image(read_file(each.path)) for each in found]
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        labels = [f"{each.match:.1%} (similarity {each.similarity:.3f})" for each in found]
        return list(zip(pictures, labels, strict=True))

    with gr.Accordion("Search among images", open=True):
        with gr.Row():
            label = "Images" if index is None else f"Images; with none, the {len(index)} of {index.folder.name}"
            images = gr.Files(label=label, height=200)
            text = gr.Textbox(label="What to look for", info="Enter searches.", lines=1)
        gallery = gr.Gallery(label="Best first", columns=FOUND, height=260, interactive=False)
    text.submit(search, [images, text, *chosen], gallery, api_name="search")


def stage_line(milliseconds: dict[str, float | bool]) -> str:
    """One line for a reader: `preprocess 1.2 ms · image reused · answer 2.1 ms · log-probability -0.012`."""
    scores = ("log-probability", "similarity")
    return " · ".join(
        stage if value is True else f"{stage} {value:.3f}" if stage in scores else f"{stage} {value:.1f} ms"
        for stage, value in milliseconds.items()
        if value is not False
    )


def launch_demo(demo: gr.Blocks) -> str:
    """Serve the page on this machine only and return its address at once; in a notebook it shows below the cell.

    Where the notebook's server has jupyter-server-proxy, the page goes through that, which works from another machine
    too; else a line says what to do there.
    """
    proxy = jupyter_proxy()
    _, address, _ = demo.launch(
        server_name="127.0.0.1",
        share=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        max_file_size="50mb",
        footer_links=["api"],
        # Fonts of the reader's system: the page asks no other machine for anything.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        quiet=True,
        prevent_thread_lock=True,
        inline=False if proxy else None,  # None: in a notebook
    )
    port = demo.server_port
    if proxy:
        # Only there in a notebook.
        from IPython.display import IFrame, display

        address = f"{proxy}{port}/"
        demo.app.root_path = address.rstrip("/")
        display(IFrame(address, "100%", 900))
    elif "JPY_PARENT_PID" in os.environ:  # a notebook's kernel
        print(
            "If the page stays blank, the notebook runs on another machine than your browser. "
            f"On yours, run ssh -L {port}:127.0.0.1:{port} THAT_MACHINE and open {address}"
        )
    return address


def jupyter_proxy() -> str | None:
    """The path of jupyter-server-proxy on the Jupyter server that started this process as a kernel; None elsewhere."""
    if not find_spec("jupyter_server_proxy"):
        return None
    # Only there in a notebook.
    from jupyter_server.serverapp import list_running_servers

    parent = os.environ.get("JPY_PARENT_PID")
    return next((f"{each['base_url']}proxy/" for each in list_running_servers() if str(each["pid"]) == parent), None)
