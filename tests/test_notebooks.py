"""The notebooks run from their first cell to their last, with less of everything, and hold no outputs."""

import json

import pytest
from documents import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
SMALLER = {
    "first_features": 'WEIGHTS = "random"',
    "train_in_five_minutes": 'WEIGHTS, NUM_ENVS, STEPS, EPISODES = "random", 2, 256, 2',
    "your_own_task": 'WEIGHTS, STEPS = "random", 256',
    "adapt": 'WEIGHTS, SCENES, STEPS = "random", 16, 2',
}
SAYS = {
    "first_features": "(4, 440)",
    "train_in_five_minutes": "success in ",
    "your_own_task": "scaled",
    "adapt": "adapted    ",
}


def test_there_are_the_four_and_they_hold_no_outputs():
    assert {path.stem for path in NOTEBOOKS} == SMALLER.keys()
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALLER[path.stem]))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert SAYS[path.stem] in "".join(output.get("text", "") for output in printed)
