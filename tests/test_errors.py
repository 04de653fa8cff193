"""One line and an exit code for a person's mistake and for the system's failures; a traceback for a defect."""

import math
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import ROOT
from depthlab import config, errors
from depthlab.errors import Mistake, hint, one_of, told_in_one_line, within, wrong_value

NAMES = ("identity", "none", "scaled", "scaled_both", "conv")


def told(capsys, error, keys=()):
    """Exit code and what stands on standard error."""

    def fail():
        with told_in_one_line(lambda: keys):
            raise error

    with pytest.raises(SystemExit) as stop:
        fail()
    out, err = capsys.readouterr()
    assert out == ""
    return stop.value.code, err


def test_help_can_be_cut_short():
    command = f"{sys.executable} {ROOT / 'train.py'} --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(
    ("given", "near"),
    [("identiy", "identity"), ("non", "none"), ("scald", "scaled"), ("scaled_bot", "scaled_both"), ("con", "conv")],
)
def test_the_nearest_name_is_told(given, near):
    assert hint(given, NAMES) == f"did you mean {near}? (allowed: identity, none, scaled, scaled_both, conv)"


@pytest.mark.parametrize("given", ["", "x", "zzzzzz", "None!?"])
def test_where_none_is_near_all_are_told(given):
    assert hint(given, NAMES[:1]) == "(allowed: identity)"


# ends, where the range has its end; the values in it, out of it; what is told
RANGES = [
    ("[]", 4, (1, 2.5, 4), (0.99, 4.01, math.inf, math.nan), "from 1 to 4"),
    ("[)", 4, (1, 3.99), (4, 0.99, math.nan), "at least 1 and under 4"),
    ("(]", 4, (1.01, 4), (1, 4.01, math.nan), "above 1 and at most 4"),
    ("()", 4, (1.01, 3.99), (1, 4, math.nan), "above 1 and under 4"),
    ("[]", math.inf, (1, 1e300), (0.99, math.inf, math.nan), "at least 1"),
    ("(]", math.inf, (1.01, 1e300), (1, math.inf, math.nan), "above 1"),
]


@pytest.mark.parametrize(("ends", "high", "inside", "outside", "allowed"), RANGES)
def test_a_range_ends_as_intervals_are_written(ends, high, inside, outside, allowed):
    for value in inside:
        within("a.key", value, 1, high, ends=ends)
    for value in outside:
        with pytest.raises(Mistake) as mistake:
            within("a.key", value, 1, high, "a reason", ends=ends)
        assert str(mistake.value) == f"a.key={value}: {allowed} (a reason)"


@pytest.mark.parametrize(
    ("given", "near"), [("CIFAR10", "cifar10"), ("rate", "recipe.rate"), ("ReLU", "relu"), ("Batch", "batch")]
)
def test_the_nearest_name_is_found_whatever_its_case_and_by_its_last_word(given, near):
    names = ["data", "batch", "cifar10", "relu", "recipe.rate"]
    assert str(one_of("x", given, names)).startswith(f"x={given}: did you mean {near}? (allowed: data, ")


def test_names_need_not_be_text():
    assert str(one_of("depth", 19, [18, 34])) == "depth=19: did you mean 18? (allowed: 18, 34)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Value 'abc' of type 'str' could not be converted to Integer", "x=abc: a whole number"),
        ("Invalid value 'basc', expected one of [a, b]", "x=basc: (allowed: a, b)"),
        ("Value 'it's' of type 'str' could not be converted to Float", "x=it's: a number"),
        ("something else", "x: something else"),
    ],
)
def test_omegaconfs_words(text, line):
    assert str(wrong_value("x", text)) == line


def test_a_mistake_ends_with_2(capsys):
    assert told(capsys, Mistake("depth=21: no")) == (2, "error: depth=21: no\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "x"), "x: Permission denied"),
        (OSError("no number"), "no number"),
    ],
)
def test_the_systems_failures_end_with_1_and_say_how_to_go_on(capsys, error, line):
    assert told(capsys, error) == (1, f"error: {line}; the same command continues\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("Unable to allocate 1 PiB"), "memory is short; recompute=true or a smaller recipe.batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory is short; recompute=true"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory is short; recompute=true"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error."), "a data worker was killed"),
    ],
)
def test_short_memory_is_one_line_that_says_what_helps(capsys, error, line):
    code, said = told(capsys, error)
    assert (code, said.count("\n"), said.startswith(f"error: {line}")) == (1, 1, True)


def test_ctrl_c_ends_with_130(capsys):
    assert told(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


CAUGHT = RuntimeError(
    "Caught RuntimeError in DataLoader worker process 0. Original Traceback (most recent call last)"
)


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), ZeroDivisionError(), RuntimeError(), AssertionError(), CAUGHT]
)
def test_a_defect_is_not_hidden(capsys, error):
    with pytest.raises(type(error)) as raised, told_in_one_line():
        raise error
    assert raised.value is error
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("code", [0, 3, 143])
def test_an_exit_passes(code):
    with pytest.raises(SystemExit) as stop, told_in_one_line():
        raise SystemExit(code)
    assert stop.value.code == code


def test_ctrl_c_while_it_looks_up_what_can_be_set_is_told_too(capsys):
    """As the fault harness found: the keys were gathered before anything was told."""

    def interrupted():
        raise KeyboardInterrupt

    with told_in_one_line(interrupted):
        pass
    assert told(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


def test_where_nothing_is_wrong_nothing_is_told(capsys):
    with told_in_one_line():
        pass
    assert capsys.readouterr() == ("", "")


ALL = ", ".join(key for key in config.keys() if "." not in key)  # noqa: SIM118
RECIPE = "batch, iterations, rate, momentum, nesterov, decay, decay_on, schedule_on, warmup, schedule, optimizer"
RECIPES = ", ".join(f"recipe.{key}" for key in RECIPE.split(", "))
WARMUPS = ", ".join(f"recipe.warmup.{key}" for key in ("rate", "until_error", "share", "from_depth"))
UNITS = "bn_after_addition, norm_after_activation, original, preact, relu_before_addition, relu_only_preact"

# Made of Hydra's and OmegaConf's own texts: a new version of theirs that says it otherwise shows here.
TYPED = {
    "dpth=20": f"dpth: no such option; did you mean depth? (allowed: {ALL})",
    "qqq=20": f"qqq: no such option; (allowed: {ALL})",
    "depth=abc": "depth=abc: a whole number",
    "depth=20.5": "depth=20.5: a whole number",
    "seed=null": "seed=null: a value is needed",
    "epochs=long": "epochs=long: a number",
    "block=basc": "block=basc: did you mean basic? (allowed: basic, bottleneck, single)",
    "rerun=maybe": "rerun=maybe: true or false",
    "recipe.rte=1": f"recipe.rte: no such option; did you mean recipe.rate? (allowed: {RECIPES})",
    "recipe.rate=fast": "recipe.rate=fast: a number",
    "recipe.warmup.shar=1": "recipe.warmup.shar: no such option; did you mean recipe.warmup.share? "
    f"(allowed: {WARMUPS})",
    "skip.scale=2": "skip.scale: no such option; the chosen skip takes none",
    "init.gian=2": "init.gian: no such option; did you mean init.gain? "
    "(allowed: init.fan, init.distribution, init.gain, init.zero_last)",
    "unit=preactt": f"unit=preactt: did you mean preact? (allowed: {UNITS})",
    "recipe/schedule=cos": "recipe/schedule=cos: did you mean cosine? "
    "(allowed: constant, cosine, exponential, one_cycle, step)",
    "depth": "depth: not of the form option=value",
    "~qqq": "Could not delete from config. 'qqq' does not exist.",
    "width=${qqq}": "width: ${qqq} is no option; a variable of the shell is ${oc.env:qqq}",
    "+depth=3": "depth: is there already; leave the + out",
}


@pytest.mark.parametrize("typed", TYPED)
def test_what_hydra_says_becomes_one_line(capsys, typed):
    def fail():
        with told_in_one_line(config.keys), initialize_config_dir(str(ROOT / "configs"), **config.VERSION_BASE):
            OmegaConf.to_container(compose("train", overrides=[typed]), resolve=True)

    with pytest.raises(SystemExit) as stop:
        fail()
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err) == (2, "", f"error: {TYPED[typed]}\n")


@pytest.mark.parametrize(
    ("stop", "code", "said"), [(KeyboardInterrupt(), 130, "interrupted\n"), (SystemExit(143), 143, "")]
)
def test_a_stop_is_found_behind_an_error_of_the_clean_up_that_it_met(capsys, stop, code, said):
    def clean_up():
        try:
            raise stop
        finally:
            raise AttributeError("half made")

    def tells():
        try:
            clean_up()
        except AttributeError:
            raise ValueError("told otherwise") from None

    with pytest.raises(SystemExit) as ended, told_in_one_line():
        tells()
    assert (ended.value.code, capsys.readouterr().err) == (code, said)


@pytest.mark.parametrize("end", ["\n", "\r", "\x1b[2J", "\x00", "\x85", "\u2028"])
def test_what_was_typed_does_not_break_the_line(capsys, end):
    with pytest.raises(SystemExit), told_in_one_line():
        raise Mistake(f"skip=a{end}b: none")
    err = capsys.readouterr().err
    assert (len(err.splitlines()), end in err) == (1, end == "\n")
    assert err.endswith("b: none\n")


@pytest.mark.parametrize(
    ("program", "run", "report", "extra"),
    [
        ("train.py", "python train.py", "python scripts/report.py", "pip install -e '.[ray]'"),
        ("/home/me/bin/depthlab", "depthlab", "depthlab-report", "pip install 'depthlab[ray]'"),
        ("/home/me/bin/depthlab-report", "depthlab", "depthlab-report", "pip install 'depthlab[ray]'"),
    ],
)
def test_commands_are_named_as_they_are_here(program, run, report, extra, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert (config.command(), config.report_command()) == (run.split(), report.split())
    assert errors.extra("ray") == extra
