"""Who imports whom: the floors of the code, from the folder's files up to the applications."""

import ast
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

HEAVY = {
    *("IPython", "jupyter_server", "torch", "transformers", "ray", "gradio", "nncf", "datasets"),
    *("fsspec", "pyarrow", "lancedb"),
}
"""Optional packages, which a function may import, as it may modules that import them."""
EVERYTHING = {"data", "files", "runtime", "model", "ir", "evaluate", "apps", "notebooks", "benchmarks"}
MAY_IMPORT = {
    "data": {"data"},
    "files": set(),
    "runtime": {"files", "runtime"},
    "model": {"files", "runtime"},
    "ir": {"data", "files", "ir"},
    "evaluate": {"data", "files", "runtime", "model", "ir", "evaluate"},
    "apps": {"data", "files", "runtime", "model", "ir", "evaluate", "apps"},
    "package": {"apps"},
    "notebooks": EVERYTHING - {"benchmarks"},
    "benchmarks": EVERYTHING,
}
FLOORS = {
    "blip_model": "model",
    "blip_openvino": "package",
    "blip_openvino.__main__": "package",
    "blip_openvino.ir.files": "files",
    "notebook_utils": "notebooks",
    "utils": "notebooks",
}


def find_modules() -> dict[str, Path]:
    """All modules of the project but tests, by their dotted names."""
    paths = [ROOT / f"{name}.py" for name in ("blip_model", "utils", "notebook_utils")]
    paths += [*(ROOT / "blip_openvino").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = find_modules()


@cache
def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported_by(statement: ast.stmt) -> set[str]:
    """The modules that an import statement names: those of the project whole, of others the package."""
    if isinstance(statement, ast.Import):
        names = {alias.name for alias in statement.names}
    elif isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, f"line {statement.lineno}: import by the whole name"
        inner = {f"{statement.module}.{alias.name}" for alias in statement.names}
        names = (inner & MODULES.keys()) or {statement.module}
    else:
        return set()
    return {name if name in MODULES else name.split(".")[0] for name in names}


def imports(module: str) -> set[str]:
    """All that a module imports, wherever it does."""
    return set().union(*(imported_by(node) for node in ast.walk(parse(module))))


@cache
def is_heavy(module: str) -> bool:
    """Whether importing a module imports one of `HEAVY`."""
    found = set().union(*(imported_by(statement) for statement in parse(module).body))
    return bool(found & HEAVY) or any(is_heavy(name) for name in found & MODULES.keys())


def imports_in_functions(module: str) -> list[list[ast.stmt]]:
    """The import statements of each function that has any."""
    functions = [node for node in ast.walk(parse(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [found for function in functions if (found := [node for node in ast.walk(function) if imported_by(node)])]


def floor(module: str) -> str:
    if module in FLOORS:
        return FLOORS[module]
    parts = module.split(".")
    return parts[0] if parts[0] == "benchmarks" else parts[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_floor_and_those_below(module):
    above = {name for name in imports(module) & MODULES.keys() if floor(name) not in MAY_IMPORT[floor(module)]}
    assert not above, f"{module} ({floor(module)}) imports {', '.join(sorted(above))}"


def test_no_imports_go_in_a_circle():
    graph = {module: imports(module) & MODULES.keys() - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", ["sources", "tables", "sinks", "sidecars"])
def test_what_reads_and_writes_collections_needs_neither_the_model_nor_the_command(module):
    reached, found = set(), {f"blip_openvino.apps.collections.{module}"}
    while found:
        reached |= found
        found = set().union(*(imports(name) for name in found & MODULES.keys())) - reached
    assert not reached & {"openvino", "click", "blip_model"}


@pytest.mark.parametrize("module", MODULES)
def test_functions_import_heavy_optional_packages_only_and_say_why(module):
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    for statements in imports_in_functions(module):
        names = set().union(*(imported_by(statement) for statement in statements))
        light = {name for name in names if name not in HEAVY and not (name in MODULES and is_heavy(name))}
        assert not light, f"{module}: import {', '.join(light)} at the top, not in a function"
        first = statements[0].lineno
        assert "#" in lines[first - 2] + lines[first - 1], (
            f"{module}, line {first}: say above it why it is not at the top"
        )


def test_the_root_has_at_most_16_entries():
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    entries = {file.split("/")[0] for file in files}
    assert len([entry for entry in entries if not entry.startswith(".")]) <= 16
