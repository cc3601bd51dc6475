"""The laws of the house: who may import whom, what loads when, and how large a room may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

import llmsim

PACKAGE = Path(llmsim.__file__).parent

FLOORS = [  # from the ground up; a module may import from its own floor and from those below
    ["errors", "units", "random", "catalog", "datafile", "textfile", "engine_options", "hardware", "model"],
    ["kvcache", "parallel", "workload", "results"],
    ["schedulers", "machine", "performance"],
    ["timeline", "log_rows", "engine"],
    ["fleet"],
    ["schema"],
    ["footprint", "cycles", "scaling", "assembly", "simulation", "comparison"],
    [
        "checkpoints",
        "side_by_side",
        "sweeps",
        "summaries",
        "plot",
        "sweep_report",
        "planning",
        "gates",
        "fronts",
        "testing",
        "accuracy",
        "calibration",
    ],
    ["cli", "__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Imports that point upward and that nothing runs at import: (who, what) -> why it may.
UPWARD = {
    ("llmsim.kvcache.blocks", "llmsim.schedulers.sequence"): "names the sequences that hold blocks, in types only",
    ("llmsim.kvcache.decode_group", "llmsim.schedulers.sequence"): "names the members of the group, in types only",
    ("llmsim.kvcache.decode_group", "llmsim.schedulers.batch"): "names the batches in flight, in types only",
    ("llmsim.kvcache.prefix", "llmsim.schedulers.sequence"): "names the sequences that share blocks, in types only",
    ("llmsim.kvcache.radix", "llmsim.schedulers.sequence"): "names the sequences that share nodes, in types only",
}

KNOW_THE_CLOCK = {"machine", "engine", "fleet", "simulation"}
ONLY_WHEN_USED = {"pandas", "matplotlib", "joblib", "rich", "networkx"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 50  # lines from `def` to the end, without the docstring

When = Literal["always", "types", "later"]


@dataclass(frozen=True)
class Import:
    """One import: who imports what, and when: as the module loads, for the type checker, or in a function."""

    source: str
    target: str
    when: When

    def __str__(self) -> str:
        return f"{self.source} imports {self.target} ({self.when})"


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Return path and syntax tree of each module of the package, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["llmsim", *path.relative_to(PACKAGE).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path, ast.parse(path.read_text(encoding="utf-8"))
    return found


def room(name: str) -> str:
    """Return the room of a module: the part of its name after the package."""
    return name.split(".")[1]


@cache
def imports() -> tuple[Import, ...]:
    """Return every import of every module."""
    return tuple(
        Import(name, target, when)
        for name, (path, tree) in modules().items()
        for node, when in _import_nodes(tree, "always")
        for target in _targets(node, name if path.name == "__init__.py" else name.rpartition(".")[0])
    )


def _import_nodes(tree: ast.AST, when: When) -> Iterator[tuple[ast.Import | ast.ImportFrom, When]]:
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        for node in tree.body:
            yield from _import_nodes(node, "types")
        for node in tree.orelse:
            yield from _import_nodes(node, when)
        return
    if isinstance(tree, ast.Import | ast.ImportFrom):
        yield tree, when
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        when = "later"
    for node in ast.iter_child_nodes(tree):
        yield from _import_nodes(node, when)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Yield the modules that an import names; ``from room import module`` names the module, not only its room."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    home = node.module or ""
    if node.level:
        home = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [home])])
    inner = {f"{home}.{alias.name}" for alias in node.names} & modules().keys()
    yield from sorted(inner)
    if len(inner) < len(node.names):
        yield home


def ours() -> list[Import]:
    """Return the imports of one module of ours by another, the public face `llmsim` apart."""
    return [one for one in imports() if one.source != "llmsim" and one.target.startswith("llmsim.")]


# ---------------------------------------------------------------------- floors


def test_every_module_stands_on_a_floor_and_every_room_of_the_floors_is_there():
    assert {room(name) for name in modules() if name != "llmsim"} == FLOOR.keys()


def test_every_import_of_ours_is_of_a_module_that_is_there():
    assert [str(one) for one in ours() if one.target not in modules()] == []


def test_no_module_imports_from_a_higher_floor():
    upward = [one for one in ours() if FLOOR[room(one.target)] > FLOOR[room(one.source)]]

    assert [str(one) for one in upward if one.when == "always"] == []
    assert {(one.source, one.target) for one in upward} == UPWARD.keys()


def test_nobody_below_the_top_imports_the_public_face_as_it_loads():
    assert [str(one) for one in imports() if one.target == "llmsim" and one.when == "always"] == []


def test_no_two_modules_import_each_other():
    pairs = {(one.source, one.target) for one in ours() if one.when == "always"}

    assert sorted(pair for pair in pairs if pair[::-1] in pairs) == []


def test_imports_as_modules_load_run_in_no_circle():
    below: dict[str, set[str]] = {name: set() for name in modules()}
    for one in ours():
        if one.when == "always":
            below[one.source].add(one.target)
    while below:
        ground = [name for name, targets in below.items() if not targets & below.keys()]
        assert ground, f"a circle among {sorted(below)}"
        for name in ground:
            del below[name]


# ---------------------------------------------------------------------- what loads when


def outside(package: str) -> list[Import]:
    """Return the imports of a package that is not ours."""
    return [one for one in imports() if one.target.split(".")[0] == package]


def test_only_rooms_that_know_the_clock_import_simpy():
    found = {room(one.source) for one in outside("simpy")}

    assert found  # the law is about something
    assert found <= KNOW_THE_CLOCK


def test_only_the_schema_imports_pydantic():
    assert {room(one.source) for one in outside("pydantic")} == {"schema"}


@pytest.mark.parametrize("package", sorted(ONLY_WHEN_USED))
def test_heavy_packages_load_only_when_used(package):
    assert [str(one) for one in outside(package) if one.when == "always"] == []


def loaded_by(code: str) -> set[str]:
    """Return the packages, neither ours nor Python's own, that a fresh interpreter has loaded after ``code``."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint('loaded:', *(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("loaded:")]
    packages = {name.split(".")[0] for name in line.split()[1:]}
    assert "llmsim" in packages
    return {name for name in packages if name not in sys.stdlib_module_names} - {"llmsim"}


def test_importing_the_package_loads_nothing_else():
    assert loaded_by("import llmsim") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["simulate", "--help"]], ids=" ".join)
def test_asking_for_help_loads_click_and_nothing_heavier(arguments):
    lines = [
        f"sys.argv = {['llmsim', *arguments]!r}",
        "from llmsim.cli import main",
        "try:",
        "    main()",
        "except SystemExit as end:",
        "    assert not end.code",
    ]

    assert loaded_by("\n".join(lines)) - {"colorama"} == {"click"}  # click loads colorama on Windows


# ---------------------------------------------------------------------- the public face


def test_all_names_the_lazy_names_and_the_version():
    assert llmsim.__all__ == sorted(llmsim.__all__)
    assert set(llmsim.__all__) == {*llmsim._HOMES, "__version__"}
    assert dir(llmsim) == llmsim.__all__


def test_type_checkers_see_the_same_names_from_the_same_homes():
    _, tree = modules()["llmsim"]
    seen = {
        alias.name: node.module
        for node, when in _import_nodes(tree, "always")
        if when == "types" and isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == llmsim._HOMES


@pytest.mark.parametrize("name", llmsim.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(llmsim, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = llmsim.nonesuch


# ---------------------------------------------------------------------- sizes


def test_every_module_says_what_it_is():
    assert [name for name, (_, tree) in modules().items() if not ast.get_docstring(tree)] == []


def test_no_file_is_too_long():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, (path, _) in modules().items()}

    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_too_long():
    lengths = {
        f"{name}.{node.name}": _length(node)
        for name, (_, tree) in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        length -= text.end_lineno - text.lineno + 1
    return length
