"""After each fault the same command ends bit for bit as if undisturbed, or says in one line why not."""

import random

import pytest
from harness import ALL, IDENTICAL, REFUSED, Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, (_, count, _) in ALL.items() for n in range(count)])
def test_nothing_is_lost_and_nothing_wrong(lab, name, number):
    try:
        outcome = ALL[name][0](lab, random.Random(f"{name} {number}"))
    except PermissionError as forbidden:
        pytest.skip(str(forbidden))
    assert outcome in (IDENTICAL, REFUSED)
