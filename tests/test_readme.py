"""What README.md and docs/ tell a reader to type works, and what they link to is there."""

import re
import shlex
from pathlib import Path

import pytest

from conftest import ROOT
from experiments import anchor

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page):
    """The commands in a page's blocks, each on one line, without the comment behind it."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines]


ELSEWHERE = ("experiments.md", "extending.md")  # whose commands test_experiments.py and test_extending.py try
TRAIN = {  # words after train.py, and the first page that has them
    line.split("train.py ")[1]: page.name
    for page in reversed(PAGES)
    if page.name not in ELSEWHERE
    for line in commands(page)
    if re.match(r"(.* && \S*)?python train\.py ", line) and "--help" not in line
}
SCRIPTS = {word for page in PAGES for line in commands(page) for word in re.findall(r"scripts/\w+\.\w+", line)}


@pytest.mark.parametrize("words", TRAIN)
def test_commands(command, words):
    """On digits they run, cut short; what takes data or hours is composed."""
    digits = "data=digits" in words
    short = ["seed=0", "depth=8", "width=4", "recipe.iterations=1"]
    typed = shlex.split(words)
    if digits:
        typed = [word for word in typed if word.split("=")[0] not in ("depth", "seed", "epochs", "weights")] + short
    else:
        typed = [word for word in typed if word != "-m" and "," not in word] + ["-c", "job"]
    outcome = command(*typed)
    assert (outcome.code, outcome.err) == (0, "")
    assert ("finished" if digits else "recipe:") in outcome.out


def test_there_are_commands_of_both_kinds():
    assert [*TRAIN.values()].count("README.md") >= 5
    assert any("data=digits" not in words for words in TRAIN)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_are_there(script):
    assert (ROOT / script).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text()):
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        headings = re.findall("^#+ (.*)", target.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in map(anchor, headings), link


def test_both_jobs_are_one_line_that_makes_its_own_environment():
    lines = [line for line in commands(ROOT / "README.md") if line.startswith("python3 -m venv .venv && ")]
    assert [line.rpartition("&& ")[2].split()[0] for line in lines] == [".venv/bin/python", ".venv/bin/pytest"]


def test_the_table_of_options_names_each():
    table = (ROOT / "docs" / "options.md").read_text()
    groups = {path.parent.relative_to(ROOT / "configs"): [] for path in (ROOT / "configs").rglob("*.yaml")}
    for group in groups.keys() - {Path(), *(g for g in groups if g.parts[:1] in (("experiment",), ("hydra",)))}:
        row = re.search(rf"^\| `{group}` \|.*$", table, re.MULTILINE)
        assert row, group
        missing = [path.stem for path in (ROOT / "configs" / group).glob("*.yaml") if f"`{path.stem}`" not in row[0]]
        assert missing == [], group
