"""docs/theory.md: formulas give their numbers, measured values stand in the linked reports, no probe lacks."""

import math
import re

import pytest

from conftest import ROOT
from depthlab import probes

PAGE = (ROOT / "docs" / "theory.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
FORMULAS = re.findall(r"`([^`=]+) = ([\d.e+-]+)`", PAGE)


@pytest.mark.parametrize(("formula", "number"), FORMULAS)
def test_a_formula_gives_its_number_to_the_digits_shown(formula, number):
    shown = number.split("e")
    unit = 10.0 ** (int(shown[1]) if "e" in number else 0) * 10.0 ** -len(shown[0].partition(".")[2])
    found = eval(formula, {name: getattr(math, name) for name in ("comb", "log", "pi", "sqrt")})
    assert found == pytest.approx(float(number), abs=unit / 2)


@pytest.mark.parametrize("title", SECTIONS)
def test_measured_values_are_the_linked_reports(title):
    reports = re.findall(r"\[report\]\(\.\./(.*?)\)", SECTIONS[title])
    values = re.findall(r"-?[\d.]+(?:e-\d+)?\s±\s[\d.]+(?:e-\d+)?(?<!\.)", SECTIONS[title])
    text = "".join((ROOT / report).read_text() for report in reports)
    assert values
    assert [value for value in values if " ".join(value.split()) not in text] == []
    assert "\n![" in SECTIONS[title]


def test_every_probe_is_there():
    for name in probes.__all__:
        assert f"`{name}`" in PAGE
    assert len(FORMULAS) > 10
