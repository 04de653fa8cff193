"""The examples of docs/extending.md: what stands there, in an empty folder, leads to a verdict."""

import re
import shlex
from pathlib import Path

import pytest

from conftest import ROOT
from depthlab import config
from depthlab.reports import command as report
from depthlab.reports.table import gather

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = {
    title: text for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S) if "`ideas/" in text
}


@pytest.mark.parametrize("title", EXAMPLES)
def test_from_nothing_to_a_verdict_in_under_30_lines(command, monkeypatch, title):
    """As typed, but for one seed and one iteration."""
    files = dict(re.findall(r"^`(ideas/[\w/.]+)`:\n\n```\w+\n(.*?)^```", EXAMPLES[title], re.M | re.S))
    (commands,) = re.findall(r"^```\n(python .*?)^```", EXAMPLES[title], re.M | re.S)
    assert sum(text.count("\n") for text in [*files.values(), commands]) < 30
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    train, tell = map(shlex.split, commands.splitlines())
    short = [] if "epochs: 0" in "".join(files.values()) else ["epochs=0.001"]
    outcome = command(*train[2:], "seed=0", *short)
    assert (outcome.code, outcome.err) == (0, "")

    judged = []
    monkeypatch.setattr("sys.argv", tell[1:])
    monkeypatch.setattr(report, "write", lambda *given: judged.append(gather(*given)))
    report.main()
    del config.FOLDERS[1:]
    words = [verdict.word for sheet in judged[0].sheets for verdict in sheet.verdicts]
    assert words
    assert "not run" not in words


def test_there_is_an_example_of_each_kind():
    assert {title.split()[-1] for title in EXAMPLES} == {
        *("skip", "norm", "init", "activation", "weight", "probe", "set", "experiment")
    }
