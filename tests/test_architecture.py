"""Who imports whom: the floors of the code, from the folder's files up to the applications."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

EVERYTHING = {"files", "runtime", "model", "ir", "evaluate", "apps", "notebooks", "benchmarks"}
MAY_IMPORT = {
    "files": set(),
    "runtime": {"files", "runtime"},
    "model": {"files", "runtime"},
    "ir": {"files", "ir"},
    "evaluate": {"files", "runtime", "model", "ir", "evaluate"},
    "apps": {"files", "runtime", "model", "ir", "evaluate", "apps"},
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
