"""The lesson and the page on Python run from top to bottom."""

import json
import re

import nbclient
import nbformat

from conftest import ROOT

LESSON = ROOT / "notebooks" / "why_deep_nets_get_worse.ipynb"


def test_the_lesson_runs_whole(tmp_path):
    """With trainings of a thirtieth of their length and coarse surfaces: every cell runs and draws, but what it draws
    says little.

    That the whole lesson shows what its text says is no test but was looked at; the experiments test the claims.
    """
    lesson = nbformat.read(LESSON, 4)
    for long, short in {"EPOCHS = 12 ": "EPOCHS = 0.4 ", "points=15, ": "points=3, "}.items():
        (cell,) = (cell for cell in lesson.cells if long in cell.source)
        cell.source = cell.source.replace(long, short)
    nbclient.NotebookClient(lesson, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    pictures = [out for cell in lesson.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 8
    assert len([*(tmp_path / "outputs").glob("*/*/*/summary.json")]) == 9


def test_the_lesson_in_git_holds_no_outputs():
    cells = json.loads(LESSON.read_text())["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


def test_the_page_on_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text()
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert "dpth: no such option; did you mean depth?" in capsys.readouterr().out
    assert len(names["rows"]) == 3
    assert names["trained"].config["data"]["name"] == "digits"
