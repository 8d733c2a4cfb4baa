"""The page in a real browser: Debian's Chromium without a window, driven by Playwright."""

import re
import threading
import time

import numpy as np
import pytest
from conftest import CHROMIUM
from playwright.sync_api import Page, expect

from blip_model import OVBlipModel
from blip_openvino.data.easy_vqa import load_captions
from blip_openvino.data.scenes import TEST_SEED, make_scene
from notebook_utils import SCENE_EXAMPLES

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
expect.set_options(timeout=60_000)  # a model is loaded meanwhile, on whatever machine
PATHS = list(load_captions("test"))[:4]
MARKUP = """<img src=x onerror="window.broken = true"> **bold** ${window.broken = true} is there a circle?"""


@pytest.fixture(params=[1280])
def page(browser, address, request):
    """The page in a window of its own, which fails the test when a script of it does or it asks another machine."""
    page = browser.new_context(viewport={"width": request.param, "height": 900}).new_page()
    strays, script_errors, own = [], [], (address, "blob:", "data:")
    page.on("request", lambda request: request.url.startswith(own) or strays.append(request.url))
    page.on("pageerror", lambda error: script_errors.append(str(error)))
    page.goto(address)
    expect(page.get_by_role("button", name="Ask")).to_be_visible()
    yield page
    assert (strays, script_errors) == ([], [])
    page.context.close()


def upload(page: Page, path) -> None:
    if page.get_by_label("Remove Image").count():
        page.get_by_label("Remove Image").click()
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.get_by_label("Remove Image")).to_be_visible()


def box(page: Page, name: str):
    return page.get_by_role("textbox", name=name)


def ask(page: Page, question: str) -> None:
    box(page, "Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def expect_history(page: Page, *turns: tuple[str, str]) -> None:
    expect(page.get_by_role("gridcell")).to_have_text([text for turn in turns for text in turn])


def test_upload_ask_caption_another_device_and_another_image(page, captions):
    path, other = PATHS[:2]
    caption, other_caption = captions[path], captions[other]
    colour, question = caption.split()[1], "what color is the shape?"
    upload(page, path)
    ask(page, question)
    expect(box(page, "Answer")).to_have_value(colour)
    expect(box(page, "Time")).to_have_value(
        re.compile("^CPU FP16: preprocess .* ms · vision .* ms · answer .* ms · log-probability .*$")
    )
    ask(page, "")
    expect(box(page, "Answer")).to_have_value(caption)
    expect(box(page, "Time")).to_have_value(re.compile("image reused · answer"))
    expect_history(page, ("(a caption)", caption), (question, colour))
    page.get_by_role("combobox", name="Device").click()
    page.get_by_role("option", name="AUTO").click()
    page.get_by_role("button", name="Ask").click()
    expect(box(page, "Time")).to_have_value(re.compile("^AUTO FP16: "))
    expect_history(page, ("(a caption)", caption), ("(a caption)", caption), (question, colour))
    upload(page, other)
    expect_history(page)
    expect(box(page, "Answer")).to_have_value("")
    ask(page, "")
    expect_history(page, ("(a caption)", other_caption))


def test_errors_are_text_and_history_stays(page, captions, tmp_path):
    path, caption = PATHS[3], captions[PATHS[3]]
    ask(page, "is there a circle?")
    expect(box(page, "Answer")).to_have_value("⚠ There is no image: upload one or click an example.")
    bad = tmp_path / "<b>text.png"
    bad.write_text("this is no picture")
    upload(page, bad)
    ask(page, "")
    expect(box(page, "Answer")).to_have_value(re.compile("⚠ .* is not an image"))
    upload(page, path)
    ask(page, "")
    expect_history(page, ("(a caption)", caption))
    ask(page, "is there a circle? " * 200)
    expect(box(page, "Answer")).to_have_value(re.compile("⚠ .* tokens long"))
    expect_history(page, ("(a caption)", caption))


@pytest.mark.parametrize("page", [1280, 390], indirect=True)
def test_markup_in_a_question_stays_text_and_the_page_fits_its_window(page):
    upload(page, PATHS[0])
    ask(page, MARKUP)
    expect(page.get_by_role("gridcell").first).to_have_text(MARKUP)
    assert page.evaluate("window.broken") is None
    ask(page, "x" * 300)
    expect(page.get_by_role("gridcell")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


def test_an_example_can_be_clicked_and_enter_asks(page):
    index, question = SCENE_EXAMPLES["counting"]
    page.get_by_role("button", name=question).click()
    expect(box(page, "Question")).to_have_value(question)
    box(page, "Question").press("Enter")
    dogs = sum(item.kind == "dog" for item in make_scene(TEST_SEED + index).items)
    expect(box(page, "Answer")).to_have_value(str(dogs))


def test_answer_grows_and_closing_the_page_ends_the_generation(page, processor, monkeypatch):
    question_mark = processor.tokenizer.convert_tokens_to_ids("?")

    def generate(self, images, *, streamer, **kwargs):
        for _ in range(1000):
            streamer.put(np.array([question_mark]))
            time.sleep(0.05)

    monkeypatch.setattr(OVBlipModel, "generate_caption", generate)
    upload(page, PATHS[0])
    ask(page, "")
    expect(box(page, "Answer")).to_have_value(re.compile(r"^\?{3}"))
    page.close()
    for thread in [each for each in threading.enumerate() if each.name.startswith("blip-generate")]:
        thread.join(20)
        assert not thread.is_alive()
