"""Both notebooks in a real JupyterLab, in Debian's Chromium, as a reader uses them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import CHROMIUM
from playwright.sync_api import Page, expect
from workplace import CONVERT, FEW, MODEL, OPTIMIZE, change, make_workplace, right_answers

from blip_openvino.ir.convert import default_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
DEMO = "iframe[src*='127.0.0.1']"
RUN_ALL = 240_000  # milliseconds, for a busy machine
SETTINGS = {
    # All cells are in the page, also those out of sight.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, converted):
    """With a converted model, which the notebooks reuse here; in `test_notebooks.py` they begin with nothing."""
    folder = make_workplace(tmp_path_factory.mktemp("workplace"))
    shutil.copytree(converted, folder / default_folder(MODEL))
    change(folder, CONVERT, "")
    change(folder, OPTIMIZE, FEW, ("quantization_widget()", "quantization_widget(False)"))
    return folder


@pytest.fixture(scope="module")
def lab(workplace, tmp_path_factory):
    """The address of a JupyterLab that serves the workplace, with its token."""
    own = tmp_path_factory.mktemp("jupyter")
    for name, settings in SETTINGS.items():
        file = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment = os.environ | {"BLIP_MODEL": MODEL, "JUPYTERLAB_SETTINGS_DIR": str(own / "settings")}
    environment |= {f"JUPYTER_{name}": str(own / place) for name, place in places.items()}
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(own / "workspaces")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    with (own / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=workplace, env=environment, stdout=log, stderr=log)
        try:
            yield wait_for_address(own / "log", server)
        finally:
            server.terminate()
            server.wait(30)


def wait_for_address(log, server) -> str:
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", log.read_text())
        if found:
            return found[0]
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def open_notebook(browser, lab: str, name: str) -> Page:
    """The notebook in a window of its own, with its kernel ready."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.goto(lab.replace("/lab?", f"/lab/tree/{name}?reset&"))  # without the tabs of another test
    expect(page.get_by_role("button", name=re.compile(r"^Python 3.*\| Idle"))).to_be_visible(timeout=60_000)
    return page


def cell(page: Page, source: str):
    """The first code cell that has `source` in it."""
    return page.locator(".jp-CodeCell").filter(has=page.locator(".jp-InputArea", has_text=source)).first


def run_cell(page: Page, source: str) -> None:
    cell(page, source).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+Enter")


def ask_the_demo(page: Page) -> None:
    """The page below the last code cell answers about its first example."""
    question, answer = next(iter(right_answers().items()))
    demo = page.frame_locator(DEMO)
    demo.get_by_role("button", name=question).click(timeout=60_000)
    expect(demo.get_by_role("textbox", name="Question")).to_have_value(question)
    demo.get_by_role("button", name="Ask").click()
    expect(demo.get_by_role("textbox", name="Answer")).to_have_value(answer, timeout=30_000)


@pytest.mark.parametrize("name", [f"changed-{CONVERT}", f"changed-{OPTIMIZE}"])
def test_notebook_runs_its_device_can_be_picked_and_its_demo_answers(browser, lab, name):
    """The second notebook has its box for quantization off, and measures accuracy on a few questions."""
    page = open_notebook(browser, lab, name)
    for item in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=item, exact=True).click()
    errors = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    page.locator(DEMO).or_(errors).first.wait_for(timeout=RUN_ALL)
    assert errors.all_inner_texts() == []
    ask_the_demo(page)
    if OPTIMIZE in name:
        skipped = page.locator(".jp-OutputArea-output", has_text="Skipped, as not ")
        expect(skipped).to_have_count(page.locator(".jp-CodeCell .jp-InputArea", has_text="%%skip").count())
        expect(cell(page, "accuracy_table")).to_contain_text("FP16")
        expect(cell(page, "accuracy_table")).not_to_contain_text("INT8")

    device = page.locator(".widget-dropdown").filter(has_text="Device:").locator("select")
    expect(device).to_have_value("AUTO")
    device.select_option("CPU")
    run_cell(page, "OVBlipModel.from_pretrained(")
    run_cell(page, "check_model(")
    expect(cell(page, "check_model(")).to_contain_text("on CPU at FP16", timeout=60_000)
    page.context.close()
