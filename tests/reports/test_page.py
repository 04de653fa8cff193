"""The page stands alone and shows what it is given, not what it says."""

import re
from html.parser import HTMLParser

import pytest
from made import run
from test_table import EXPERIMENT

from depthlab.reports import figure
from depthlab.reports.page import page
from depthlab.reports.table import gather

VOID = {"meta", "path", "use", "rect", "br"}


class Tags(HTMLParser):
    """Collects tags, and checks that each one is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag in ("th", "td", *VOID):  # cells need no end
            return
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in ("th", "td", *VOID):
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with two data sets, and its page."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        for depth, end in ((20, 5.0), (56, 30.0)):
            run(folder, depth, seed=seed, train=(80, end + seed), test=(85, end + seed))
    run(folder, data="cifar10")
    run(folder, 8, skip="<script>alert('&')</script>", data="cifar10")
    report = gather(folder, EXPERIMENT | {"title": "<b>Deep & deeper</b>"})
    figures = {
        f"{draw.__name__}-{sheet.data}": figure.save(draw(sheet.rows), folder / "figure")
        for sheet in report.sheets
        for draw in (figure.curves, figure.final)
    }
    return report, page(report, figures)


def test_no_request_leaves_the_page(made):
    _, text = made
    assert not re.search(r"https?:|//\w|src=|@import|<link|<script|<iframe", text)
    assert not re.search(r"url\((?!#)|href=\"(?!#)", text)


def test_what_others_wrote_is_escaped(made):
    report, text = made
    assert "<b>" not in text
    assert "&lt;b&gt;Deep &amp; deeper&lt;/b&gt;" in text
    assert "skip=&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in text
    assert report.sheets[0].data == "cifar10"


def test_it_is_whole(made):
    report, text = made
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert tags.seen.count("svg") == 4
    rows = [row for sheet in report.sheets for row in sheet.rows]
    assert tags.seen.count("details") == len(report.sheets) + len(rows) == 6
    assert all(text.count(f"- {result.path.name}\n") == 1 for row in rows for result in row.results)
    assert text.count("data.name: digits\n") == text.count("depth: 56\n") == 1
    assert text.count("python train.py experiment=") == 2
    assert "<td>32.00" in text or "<td>31.00 ± 1.00" in text


def test_a_verdict_is_a_word_and_a_colour(made):
    _, text = made
    assert '<span class="word reproduced">✓ reproduced</span> 56 worse than 20' in text
    assert '<span class="word not-run">– not run</span> 1 published number' in text
    for word in ("reproduced", "contradicted", "undecided", "not-run"):
        assert re.search(rf"\.{word} {{ background: #\w+; color: #\w+; }}", text)


def test_without_runs_there_is_a_page(tmp_path):
    (run(tmp_path) / "summary.json").unlink()
    text = page(gather(tmp_path), {})
    assert "No finished run yet." in text
    assert "unfinished: resnet20-none-digits-s0" in text
