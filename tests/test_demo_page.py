"""The demo page in a real browser, Debian's headless Chromium driven by Playwright; it leaves screenshots in build/."""

import io
import re
import shutil
from pathlib import Path

import openvino as ov
import pytest
from conftest import EMBEDDED, ROOT
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from blip_openvino.apps.demo import build_demo, example_inputs, launch_demo
from blip_openvino.ir.easy_vqa import load_captions
from blip_openvino.ir.files import (
    OPTIMIZER_VERSION,
    PARTS_OF_ARCHITECTURE,
    quantized_name,
    read_ir,
    read_stamp,
    save_ir,
)

SCREENSHOTS = ROOT / "build" / "screenshots"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
EVIL = """<img src=x onerror="window.broken = true"> ${window.broken = true} {{value}} is there a circle?"""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    assert chromium, "these tests need a browser: install one with `apt-get install chromium`, or put it on the PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def captions():
    return list(load_captions("test").items())


@pytest.fixture(scope="module")
def address(converted, tmp_path_factory):
    """The page on a folder with two precisions: what the page calls INT8 here is FP16 again."""
    folder, core = shutil.copytree(converted, tmp_path_factory.mktemp("page") / "blip-easy-vqa"), ov.Core()
    for part in PARTS_OF_ARCHITECTURE["BlipForQuestionAnswering"]:
        model = read_ir(core, folder / part)
        save_ir(model, folder / quantized_name(part), read_stamp(model) | {"optimizer": OPTIMIZER_VERSION})
    demo = build_demo(folder, example_inputs(EMBEDDED), "CPU", "FP16")
    yield launch_demo(demo, prevent_thread_lock=True, inline=False)
    demo.close()


def opened(browser: Browser, address: str, width: int = 1280, scheme: str = "light") -> Page:
    """The page in a window of its own, which fails the test when a script of it does or it asks another machine."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.strays, page.script_errors = [], []
    own = (address, "blob:", "data:")
    page.on("request", lambda request: request.url.startswith(own) or page.strays.append(request.url))
    page.on("pageerror", lambda error: page.script_errors.append(str(error)))
    page.goto(address)
    expect(page.get_by_role("button", name="Ask")).to_be_visible(timeout=30_000)
    return page


@pytest.fixture
def page(browser, address):
    page = opened(browser, address)
    yield page
    assert page.strays == []
    assert page.script_errors == []
    page.context.close()


def upload(page: Page, *paths: str | Path) -> None:
    for path in paths:
        if page.get_by_label("Remove Image").count():
            page.get_by_label("Remove Image").click()
        page.locator("input[type=file]").first.set_input_files(path)
        expect(page.get_by_label("Remove Image")).to_be_visible()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def answer(page: Page):
    return page.locator("output")


def history(page: Page):
    return page.locator(".history li")


def choose(page: Page, label: str, value: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=value).click()


def test_upload_ask_caption_and_ask_again(page, captions):
    (path, caption), (other, other_caption) = captions[:2]
    colour = caption.split()[1]
    upload(page, path)
    ask(page, "what color is the shape?")
    expect(answer(page)).to_have_text(colour)
    stages = ("preprocess", r"vision [\d.]+ ms \(new image\) · text encoder", "decoder")
    expect(page.locator(".reply p")).to_have_text(re.compile("^CPU FP16: .*" + ".*".join(stages)))
    ask(page, "")
    expect(answer(page)).to_have_text(caption)
    expect(page.locator(".reply p")).to_contain_text("(image reused)")
    expect(history(page)).to_have_text([f"(a caption){caption}", f"what color is the shape?{colour}"])
    upload(page, other)
    expect(history(page)).to_have_count(0)
    expect(answer(page)).to_have_text("")
    ask(page, "what shape is in the image?")
    expect(answer(page)).to_have_text(other_caption.split()[2])
    expect(history(page)).to_have_count(1)


def test_changing_the_precision_keeps_image_and_question(page, captions):
    path, caption = captions[2]
    upload(page, path)
    ask(page, "what color is the shape?")
    expect(page.locator(".reply p")).to_contain_text("CPU FP16: ")
    choose(page, "Precision", "INT8")
    expect(page.get_by_label("Remove Image")).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value("what color is the shape?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".reply p")).to_contain_text("CPU INT8: ")
    expect(page.locator(".reply p")).to_contain_text("decoder")
    expect(answer(page)).to_have_text(caption.split()[1])
    expect(history(page)).to_have_count(2)
    choose(page, "Device", "AUTO")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".reply p")).to_contain_text("AUTO INT8: ")
    expect(history(page)).to_have_count(3)


def test_bad_file_and_bad_question_are_told_and_the_next_answer_is_right(page, captions, tmp_path):
    path, caption = captions[3]
    bad = tmp_path / "text<b>.png"
    bad.write_text("this is no picture")
    upload(page, bad)
    ask(page, "")
    expect(page.get_by_role("alert")).to_contain_text("not an image")
    expect(answer(page)).to_have_text("")
    upload(page, path)
    expect(page.get_by_role("alert")).to_be_empty()
    ask(page, "is there a circle? " * 200)
    expect(page.get_by_role("alert")).to_contain_text("tokens long; the model takes 512")
    ask(page, "")
    expect(answer(page)).to_have_text(caption)
    expect(page.get_by_role("alert")).to_be_empty()


def test_asking_without_an_image_says_what_to_do(page):
    ask(page, "is there a circle?")
    expect(page.get_by_role("alert")).to_have_text("There is no image: upload one or click an example.")


def test_html_and_templates_in_a_question_stay_text(page, captions):
    upload(page, captions[0][0])
    ask(page, EVIL)
    expect(history(page).first).to_contain_text(EVIL)
    assert page.evaluate("window.broken") is None
    assert page.locator(".history img").count() == 0


def test_photo_is_shown_and_answered_upright_whatever_its_exif_says(page, captions, tmp_path):
    path, caption = captions[0]
    exif, file = Image.Exif(), tmp_path / "turned.png"
    exif[0x0112] = 3
    Image.open(path).convert("RGB").rotate(180).save(file, exif=exif)
    upload(page, file)
    ask(page, "")
    expect(answer(page)).to_have_text(caption)


def test_image_can_be_pasted_and_dropped(page, captions):
    content = io.BytesIO()
    Image.open(captions[4][0]).convert("RGB").save(content, "PNG")
    target = page.get_by_label("Drop an image file here to upload")
    data = page.evaluate_handle(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            return data;
        }""",
        list(content.getvalue()),
    )
    target.dispatch_event("drop", {"dataTransfer": data})
    expect(page.get_by_label("Remove Image")).to_be_visible()
    ask(page, "")
    expect(answer(page)).to_have_text(captions[4][1])
    for source in ("Upload file", "Capture from camera", "Paste from clipboard"):
        expect(page.get_by_label(source)).to_be_visible()


def test_everything_works_from_the_keyboard(page):
    example = page.get_by_role("button", name="is there a circle?")
    for _ in range(30):
        if example.evaluate("one => one === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(example).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Question")).to_have_value("is there a circle?")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.get_by_label("Question").evaluate("one => one === document.activeElement"):
            break
    expect(page.get_by_label("Question")).to_be_focused()
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("yes")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Ask")).to_be_focused()
    page.keyboard.press("Enter")
    expect(history(page)).to_have_count(2)


def test_parts_have_the_names_and_roles_that_screen_readers_need(page):
    for role, name in (
        ("heading", "BLIP with OpenVINO"),
        ("heading", "Answer"),
        ("textbox", "Question"),
        ("combobox", "Device"),
        ("combobox", "Precision"),
        ("button", "Generation options"),
    ):
        expect(page.get_by_role(role, name=name).first).to_be_visible()
    assert answer(page).get_attribute("aria-live") == "polite"
    page.get_by_role("button", name="Generation options").click()
    for name in ("Max new tokens", "Beams", "Temperature", "Top-p"):
        expect(page.get_by_role("slider", name=name)).to_be_visible()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("main button, main input:not([type=file]), main textarea")]
            .filter((one) => one.checkVisibility() && !(one.innerText || one.labels?.length || one.title
                || one.ariaLabel || one.getAttribute("aria-labelledby")))
            .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_generation_options_reach_the_model(page, captions):
    path, caption = captions[0]
    upload(page, path)
    page.get_by_role("button", name="Generation options").click()
    tokens = page.get_by_role("spinbutton", name="Max new tokens")
    # Gradio sets up what was folded away after it can be typed into, which takes back a value typed within that moment.
    for count in range(1, 11):
        tokens.fill("2")
        tokens.press("Tab")
        ask(page, "")
        expect(history(page)).to_have_count(count)
        if caption not in history(page).first.inner_text():
            break
    expect(answer(page)).to_have_text(" ".join(caption.split()[:2]))


def test_limits_and_hints_of_the_embedded_model_are_there(page):
    expect(page.locator(".note")).to_contain_text("13 answers")
    page.get_by_text("Questions and answers it knows").click()
    expect(page.locator(".note dl")).to_contain_text("rectangle")
    expect(page.locator(".note dl")).to_contain_text("what shape is in the image?")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_its_window_and_is_readable(browser, address, captions, width, scheme):
    page = opened(browser, address, width, scheme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"empty-{width}-{scheme}.png", full_page=True)
    path, caption = captions[0]
    upload(page, path)
    ask(page, "what color is the shape?")
    expect(history(page)).to_have_count(1)
    ask(page, "x" * 300)
    expect(history(page)).to_have_count(2)
    ask(page, "")
    expect(answer(page)).to_have_text(caption)
    page.screenshot(path=SCREENSHOTS / f"answered-{width}-{scheme}.png", full_page=True)
    page.get_by_text("Questions and answers it knows").click()
    page.get_by_role("button", name="Generation options").click()
    ask(page, "is there a circle? " * 200)
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.screenshot(path=SCREENSHOTS / f"error-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in (
        "output",
        ".reply p",
        ".history span",
        ".note p",
        "label",
        "[role=alert]",
        "textarea",
        "button.primary",
    ):
        assert contrast(page, selector) >= 4.5, selector
    page.context.close()


def contrast(page: Page, selector: str) -> float:
    """The contrast of an element's text with what lies behind it, 1 to 21 (WCAG 2.2, definition of contrast ratio)."""
    colours = page.locator(selector).first.evaluate(
        """(one) => {
            const solid = (element) => {
                const colour = getComputedStyle(element).backgroundColor;
                return !element.parentElement || !/rgba\\(.*, 0\\)|transparent/.test(colour)
                    ? colour : solid(element.parentElement);
            };
            const rgb = (colour) => {
                const context = new OffscreenCanvas(1, 1).getContext("2d");
                context.fillStyle = colour;
                context.fillRect(0, 0, 1, 1);
                return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
            };
            return [rgb(getComputedStyle(one).color), rgb(solid(one))];
        }"""
    )
    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[int]) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    parts = [each / 255 for each in colour]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
