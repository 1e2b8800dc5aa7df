"""Imports run one way: value < op < ops < engine < {tape, graph, peers} < registry < suites; report stands apart."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engines", "suites", "report")

LAYERS: dict[str, set[str]] = {
    "engines": set(),
    "engines.interrupt": set(),
    "engines.value": set(),
    "engines.op": {"engines.value"},
    "engines.ops": {"engines.value", "engines.op"},
    "engines.optim": {"engines.value", "engines.op", "engines.ops"},
    "engines.engine": {"engines.value", "engines.op", "engines.ops", "engines.optim"},
}
"""What each part of the engines may import, beside itself."""

BELOW = set(LAYERS) - {"engines"}
LAYERS |= dict.fromkeys(("engines.tape", "engines.graph", "engines.peers"), BELOW)
LAYERS |= {"engines.registry": BELOW}  # finds engines by name, when asked
LAYERS |= {"engines.show": {*BELOW, "engines.tape", "engines.graph"}}  # what people look at, above both engines
LAYERS |= {"engines.__main__": {*BELOW, "engines.registry", "engines.show"}}

ON_DEMAND = {"suites.harness.memory": {"memray"}}
"""What may be imported inside a function: dependencies that some systems do not have."""


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for package in PACKAGES for file in files_of(package)}


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_at_run_time(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import but those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.stmt) and is_for_types(node)):
            yield from imports_at_run_time(node)


def all_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def targets(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "imports are absolute"
    assert node.module is not None
    found = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in found]


def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def part_of(module: str) -> str:
    """The layer of a module of the engines."""
    return ".".join(module.split(".")[:2])


def test_there_is_something_to_look_at() -> None:
    assert {"engines.value", "engines.tape.tape", "engines.graph.passes.cse", "engines.ops.conv"} <= set(MODULES)
    imported = {name for node in all_imports(tree_of("engines.graph.trace")) for name in targets(node)}
    assert {"engines.graph.ir", "engines.op", "engines.ops", "engines.value", "torch"} <= imported


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("engines")])
def test_engines_import_downwards_only(module: str) -> None:
    part = part_of(module)
    assert part in LAYERS, f"{part} has no place in LAYERS"
    for node in imports_at_run_time(tree_of(module)):
        ours = {name for name in targets(node) if name.split(".")[0] in PACKAGES}
        assert {part_of(name) for name in ours} <= LAYERS[part] | {part}, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("engines")])
def test_engines_know_neither_suites_nor_report_nor_each_other(module: str) -> None:
    families = {"engines.tape", "engines.graph", "engines.peers"}
    strangers = families - {part_of(module)} if part_of(module) in families else set()
    for node in all_imports(tree_of(module)):  # for type checkers too
        for name in targets(node):
            assert name.split(".")[0] not in {"suites", "report", "tests"}, f"{module}:{node.lineno}"
            assert part_of(name) not in strangers, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("report")])
def test_the_report_reads_files_and_imports_nothing_that_runs_models(module: str) -> None:
    for node in all_imports(tree_of(module)):
        roots = {name.split(".")[0] for name in targets(node)}
        assert not roots & {"engines", "suites", "torch", "tests"}, f"{module}:{node.lineno}"


def test_no_module_imports_itself_by_any_way_round() -> None:
    edges = {
        module: {name for node in imports_at_run_time(tree_of(module)) for name in targets(node) if name in MODULES}
        for module in MODULES
    }
    while leaves := [module for module, found in edges.items() if not found & set(edges)]:
        for module in leaves:
            del edges[module]
    assert edges == {}, f"a cycle among {sorted(edges)}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_stand_at_the_top(module: str) -> None:
    inside = {
        name
        for function in ast.walk(tree_of(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in all_imports(function)
        for name in targets(node)
    }
    assert inside <= ON_DEMAND.get(module, set())


def test_only_the_registry_imports_by_name() -> None:
    asking = {m for m in MODULES for node in all_imports(tree_of(m)) if "importlib" in targets(node)}
    assert {m for m in asking if m.startswith("engines")} <= {"engines.registry"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith("engines") and not m.startswith("engines.peers")]
)
def test_the_engines_stand_on_numpy_and_torch_alone(module: str) -> None:
    allowed = {"engines", "numpy", "torch", "__future__", *sys.stdlib_module_names}
    for node in all_imports(tree_of(module)):
        assert {name.split(".")[0] for name in targets(node)} <= allowed, f"{module}:{node.lineno}"
