"""docs/gan_dist.ipynb: executed as it stands, with short trainings of two processes on the sample digits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines

NOTEBOOK = REPOSITORY / "docs" / "gan_dist.ipynb"
SHORT = """
EPOCHS, MORE_EPOCHS, EVALUATED, SOURCE, WANDB, PROCESSES = 2, 4, 200, "sample", "offline", 2
"""


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def tagged(notebook: Any, tag: str) -> list[Any]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


def printed(cell: Any) -> str:
    """The text of a cell's output, without colours."""
    texts = [output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"]
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(texts))


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", ()) for output in cell.outputs)


def test_the_file_is_valid_and_holds_no_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert "%pip install" in tagged(notebook, "install")[0].source
    assert len(tagged(notebook, "parameters")) == 1


def test_every_setting_of_the_test_is_one_of_the_notebook() -> None:
    (parameters,) = tagged(read(), "parameters")
    for name in SHORT.partition("=")[0].split(","):
        assert re.search(rf"^{name.strip()} = ", parameters.source, re.MULTILINE), name


@pytest.mark.slow
@pytest.mark.processes(2)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read()
    # Not executed: the package is installed already, and a test does not change its own environment.
    (install,) = tagged(notebook, "install")
    notebook.cells.remove(install)
    (parameters,) = tagged(notebook, "parameters")
    parameters.source += SHORT
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "cache"))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    by_source = {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}

    def cell(line: str) -> Any:
        (found,) = [by_source[source] for source in by_source if line in source]
        return found

    assert "(5000, 1, 28, 28) torch.uint8 0 255" in printed(cell("load_images("))
    assert "torch.float32 -1.0 1.0" in printed(cell("load_images("))
    first = printed(cell('launch("seed", RUN, EPOCHS)'))
    assert "batch size │ 100 over 2 process(es)" in first  # the table of rank 0, which is a forked process
    assert "finished: 2 epochs done" in first
    assert pictures(cell("def show(run)")) == 3
    assert "random guessing: loss of D 1.386" in printed(cell("rows = ["))
    evaluated = printed(cell("evaluate {RUN} "))
    assert "distance/frechet" in evaluated
    assert "too early" in evaluated
    assert "finished: 4 epochs done" in printed(cell("MORE_EPOCHS)"))
    assert "finished: 2 epochs done" in printed(cell('launch("r3"'))
    assert "(64, 1, 28, 28)" in printed(cell("load_generator"))
    folder = RunFolder(tmp_path / "runs" / "notebook")
    environment = read_json(folder.environment)
    assert environment["processes"] == 2
    assert environment["from_step"] == 100  # the second session resumed
    assert [row["step"] for row in read_json_lines(folder.metrics)] == [100, 200]
