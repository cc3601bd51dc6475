"""Every notebook runs from top to bottom, and is committed with small outputs, as a document to read."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MOST_BYTES = 150_000
# Where classes of a user's own come from: docs/own-scheduler.md.
EXTENSION_POINTS = ("llmsim.schedulers.continuous", "llmsim.schedulers.queues", "llmsim.testing")


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    probe = nbformat.v4.new_code_cell("import sys; print(sys.executable, end='')")
    notebook.cells.append(probe)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert probe.outputs[0]["text"] == sys.executable, "the kernel is another Python than the one that runs the tests"
    errors = [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]
    assert not errors
    assert not list(tmp_path.iterdir()), "a notebook writes no files"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_small_outputs_and_in_order(path):
    assert path.stat().st_size < MOST_BYTES
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    # Every cell shows something but those whose last line is an assignment.
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 1
    text = path.read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert "/tmp/" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_calls_the_public_face_only(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    inner = [line for source in cells for line in source.splitlines() if "llmsim." in line and "import" in line]
    assert [line for line in inner if line.split()[1] not in EXTENSION_POINTS] == []


def test_the_extension_points_are_documented():
    text = (Path(__file__).parents[1] / "docs" / "own-scheduler.md").read_text(encoding="utf-8")
    assert [name for name in EXTENSION_POINTS if f"from {name} import" not in text] == []
