"""The README and the pages of docs/: short, and true of the commands, files and figures that they name."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.report import latest_results, short_table
from blip_openvino.apps.cli import main

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
MARKERS = ("<!-- benchmark -->\n", "\n<!-- /benchmark -->\n")


def links(page: Path) -> list[tuple[Path, str]]:
    """The files of the repository that a page links to, each with the heading it names or an empty string."""
    targets = [link.partition("#") for link in LINK.findall(page.read_text()) if "://" not in link]
    return [((page.parent / path).resolve() if path else page, heading) for path, _, heading in targets]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_has_at_most_120_lines():
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    found = links(page)
    assert found
    assert [path for path, _ in found if not path.exists()] == []
    assert [heading for path, heading in found if heading and heading not in anchors(path)] == []


def test_readme_links_to_every_page_of_docs():
    assert {path for path, _ in links(README)}.issuperset({*PAGES, ROOT / "benchmarks/README.md", ROOT / "LICENSE"})


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_commands_exist_and_take_the_options_that_they_are_given(page):
    for line in re.findall(r"blip-ov [^`\n|]+", page.read_text()):
        name, *words = line.partition("#")[0].split()[1:]
        assert name in main.commands, line
        options = {option for each in main.commands[name].params for option in each.opts}
        assert {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= options | {"--help"}, line


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z]+)(?=[ a-z]*:(?!=))", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|[A-Z_]=\S+ )make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= targets


def test_readme_names_every_command_and_the_make_targets_for_a_user():
    text = README.read_text()
    assert [name for name in main.commands if f"blip-ov {name}" not in text] == []
    assert [name for name in ("run", "test", "check", "demo", "bench", "notebook") if f"make {name}" not in text] == []


def test_readme_has_the_table_of_the_newest_filed_results():
    before, table = README.read_text().split(MARKERS[0])
    assert before
    assert table.split(MARKERS[1])[0] == short_table(latest_results())


def test_readme_claims_figures_of_its_table():
    text = README.read_text()
    claim = re.search(r"^\*\*(.+ ms.+)\*\*$", text, re.MULTILINE)[1]
    cells = {cell.strip(" *") for cell in text.split(MARKERS[0])[1].split(MARKERS[1])[0].split("|")}
    figures = re.findall(r"([\d.]+) ms", claim)
    assert len(figures) >= 3
    assert set(figures) <= cells


@pytest.mark.parametrize(("folder", "page"), [("openvino", "devices.md"), ("ray", "cluster.md")])
def test_scripts_that_reproduce_defects_are_short_and_described(folder, page):
    scripts = sorted((ROOT / "docs" / folder).glob("*.py"))
    described = {path for path, _ in links(ROOT / "docs" / page)}
    assert scripts
    assert [script.name for script in scripts if script not in described] == []
    assert [script.name for script in scripts if len(script.read_text().splitlines()) > 40] == []
