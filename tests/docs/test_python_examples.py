"""The Python examples of README and docs run, in order, page by page; so does the notebook."""

import json

import pytest

from support.markdown import GUIDES, ROOT, blocks

NOTEBOOK = ROOT / "examples" / "audit.ipynb"
EXAMPLES = {
    str(page.relative_to(ROOT)): found
    for page in GUIDES
    if (found := blocks(page.read_text(encoding="utf-8"), "python"))
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the checkout and may be written to."""
    for name in ("results", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_run(page, checkout):
    namespace = {"__name__": "__main__"}
    for example in EXAMPLES[page]:
        exec(compile(example, page, "exec"), namespace)


def test_the_notebook_runs(checkout):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    namespace = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, str(NOTEBOOK), "exec"), namespace)
