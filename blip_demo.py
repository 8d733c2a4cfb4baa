"""A page to try a converted model on: an image and a question in, the answer out; without a question, a caption.

python blip_demo.py build/blip-easy-vqa --device CPU
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

# Before gradio is imported: it reads this once, and a page on one's own machine has nothing to report.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from PIL import Image
from transformers import BlipProcessor

from blip_model import OVBlipModel
from easy_vqa_data import load_questions
from notebook_utils import download_file

DEMO_PHOTO = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"
EMBEDDED_MODEL = "models/blip-easy-vqa"


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


def answer_or_caption(
    model: OVBlipModel, processor: BlipProcessor, image: Image.Image, question: str, **generate_kwargs
) -> str:
    """The answer to `question` about `image`, or the image's caption where the question is blank."""
    if question.strip():
        inputs = processor(image.convert("RGB"), question, return_tensors="pt")
        ids = model.generate_answer(**inputs, **generate_kwargs)
    else:
        inputs = processor(image.convert("RGB"), return_tensors="pt")
        ids = model.generate_caption(inputs["pixel_values"], **generate_kwargs)
    return processor.decode(ids[0], skip_special_tokens=True)


def build_demo(model: OVBlipModel, processor: BlipProcessor, examples: Sequence[tuple[str, str]]) -> gr.Interface:
    """The demo page; `launch_demo` serves it."""

    def respond(image: Image.Image | None, question: str | None) -> tuple[str, str]:
        if image is None:
            raise gr.Error("There is no image: upload one or click an example.")
        start = time.perf_counter()
        try:
            text = answer_or_caption(model, processor, image, question or "", max_new_tokens=20)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        return text, f"{(time.perf_counter() - start) * 1000:.1f} ms"

    return gr.Interface(
        respond,
        inputs=[gr.Image(type="pil", label="Image"), gr.Textbox(label="Question", info="Leave it empty for a caption")],
        outputs=[gr.Textbox(label="Answer"), gr.Textbox(label="Processing time")],
        examples=[list(example) for example in examples],
        cache_examples=False,
        title="BLIP with OpenVINO",
        flagging_mode="never",
        api_name="answer",
        analytics_enabled=False,
    )


def launch_demo(demo: gr.Interface, **options) -> str:
    """Serve the page on this machine only and return its address; in a notebook it shows below the cell."""
    _, address, _ = demo.launch(server_name="127.0.0.1", share=False, ssr_mode=False, quiet=True, **options)
    return address


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo page for a converted BLIP model.")
    parser.add_argument("folder", type=Path, help="a folder that blip_convert.py made")
    parser.add_argument("--device", default="AUTO", help="an OpenVINO device (default: AUTO)")
    arguments = parser.parse_args()
    model = OVBlipModel.from_pretrained(arguments.folder, arguments.device)
    demo = build_demo(model, BlipProcessor.from_pretrained(arguments.folder), example_inputs(arguments.folder))
    print(f"The demo is at {launch_demo(demo, prevent_thread_lock=True)} (Ctrl+C ends it)")
    demo.block_thread()


if __name__ == "__main__":
    main()
