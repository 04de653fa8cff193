"""What is said about a run."""

import pytest

from depthlab.describe import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (42.4, "42 s"),
        (99.4, "99 s"),
        (99.5, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (12_600, "3.5 h"),
        (172_799, "48.0 h"),
        (172_800, "2.0 days"),
        (1_000_000, "11.6 days"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(seconds, text):
    assert duration(seconds) == text
