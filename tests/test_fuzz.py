"""Whatever is typed, a run ends well or a line says why not."""

import json
import math
from pathlib import Path

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from conftest import presets

GROUPS = ("skip", "unit", "norm", "init", "activation", "weight", "network", "data", "recipe", "probe")
GROUPS += ("recipe/schedule", "recipe/optimizer")
CHOICES = {group: sorted(presets(group)) for group in GROUPS if group not in ("data", "recipe")}
CHOICES |= {
    "data": ["digits", "mnist1d", "synthetic", "line"],
    "recipe": ["digits", "mnist1d", "he2015", "he2016", "imagenet"],
}
KEYS = [
    *("depth", "width", "block", "seed", "epochs", "device", "precision", "evaluate_train", "checkpoint_every"),
    *("rerun", "folder", "experiment", "threads", "probe", "weights", "lr", "dpth", "network.shortcut", "unit.order"),
    *("recipe.rate", "recipe.batch", "recipe.momentum", "recipe.decay", "recipe.nesterov", "recipe.decay_on"),
    *(
        "recipe.schedule_on",
        "recipe.warmup",
        "recipe.warmup.rate",
        "recipe.warmup.share",
        "recipe.warmup.until_error",
    ),
    *("recipe.warmup.from_depth", "recipe.schedule", "recipe.schedule.drops", "recipe.schedule.name"),
    *(
        "data.validation",
        "data.subset",
        "data.augment",
        "data.normalize",
        "data.images",
        "data.classes",
        "data.points",
    ),
]
KEYS += [f"{group}.{key}" for group in ("skip", "norm", "init") for key in ("name", "scale", "p", "size", "bias")]
JUNK = [
    *("null", "nan", "inf", "-inf", "1e308", "-1", "0", "1e-320", "99999999999999999999", "true", "'a b'", "é", "🙂"),
    *("[]", "{}", "[1,[2,{a:3}]]", "{a:{b:[nan]}}", "${depth}", "${nothing}", "${oc.env:NOTHING}", "${", "???", ".."),
    *("/", "../../x", "a=b", "\u202e", "\x00", "[", "{", "depth", "-0.0", "1_000", "0x10", "", "\n", "' '"),
]
TINY = {"device": "cpu", "threads": "1", "depth": "8", "width": "4", "data": "synthetic", "recipe.iterations": "1"}

numbers = st.one_of(st.integers(-3, 70), st.floats(), st.integers()).map(str)
values = st.one_of(numbers, numbers, st.sampled_from(JUNK), st.text(max_size=5))
choices = st.sampled_from(GROUPS).flatmap(lambda group: st.tuples(st.just(group), st.sampled_from(CHOICES[group])))
sane = st.one_of(choices, st.tuples(st.just("depth"), st.sampled_from(["8", "14", "11", "20", "18"])))
odd = st.tuples(st.sampled_from([*KEYS, *GROUPS]), values)
prefixed = st.tuples(st.sampled_from(["", "", "", "", "+", "++", "~"]), odd)
words = st.tuples(
    st.lists(sane, max_size=5), st.lists(prefixed, max_size=2), st.lists(st.text(max_size=6), max_size=1)
)


def arguments(drawn) -> list[str]:
    """A command of a tiny run, with what was drawn on top."""
    plain, strange, junk = drawn
    given = dict(plain)
    given |= {key: value for prefix, (key, value) in strange if not prefix}
    forced = [f"{prefix}{key}={value}" for prefix, (key, value) in strange if prefix]
    whole = TINY | given
    small = {"width", "recipe.batch", "data.subset", "network.width", "epochs"}  # which can be right and long
    whole |= {key: TINY.get(key, "1") for key in small & given.keys() if _large(given[key])}
    if _large(whole["depth"]):
        whole["depth"] = "8"
    return [f"{key}={value}" for key, value in whole.items()] + forced + junk


def _large(text: str) -> bool:
    try:
        return 70 < float(text) < 1e7
    except ValueError:
        return False


def check(command, typed: list[str]) -> None:
    """One command; AssertionError, with what was typed, where it neither runs nor says in a line why not."""
    outcome = command(*typed)
    torch.set_flush_denormal(False)  # hypothesis draws such numbers too
    if outcome.code == 0:
        assert outcome.err == "", f"{typed} {outcome}"
        for path in Path("outputs").rglob("summary.json"):
            summary = json.loads(path.read_text())
            final = [value for value in summary["final"].values() if value is not None]
            assert all(map(math.isfinite, final)), f"{typed} {summary}"
            assert summary["status"] == "diverged" or len(final) == len(summary["final"]), f"{typed} {summary}"
    else:
        assert outcome.code == 2, f"{typed} {outcome}"
        assert outcome.err.startswith("error: "), f"{typed} {outcome}"
        assert outcome.err.count("\n") == 1, f"{typed} {outcome}"


def test_whatever_is_typed(command, request):
    count = request.config.getoption("--examples")

    @settings(max_examples=count, deadline=None, phases=[Phase.generate], derandomize=count == 100, database=None)
    @given(words)
    def holds(drawn):
        check(command, arguments(drawn))

    holds()
