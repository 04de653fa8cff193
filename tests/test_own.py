"""Options of one's own, without a touch of the clone: functions by options=FOLDER, YAML files by --config-dir."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.config_store import ConfigStore
from torch import nn

import depthlab
from depthlab import Mistake, config, own
from depthlab.run.directory import Run

SHORT = ["data=digits", "depth=8", "width=4", "recipe.iterations=2"]
SKIP = '''
from __future__ import annotations
from torch import nn

class mine(nn.Module):
    """y = a x + F(x), my idea."""
    def __init__(self, channels, *, a: float = 0.9):
        super().__init__()
        self.a = a
    def forward(self, x, f):
        return self.a * x + f
'''
EXPERIMENT = """# @package _global_
# does my skip train?
experiment:
  title: My skip
  source: myself
  seeds: [0]
  runs: ["skip=none,identity"]
  claims:
    - claim: the plain network is worse
      higher: {skip: none}
      lower: {skip: identity}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "my options"
    made.mkdir()
    (made / "skip.py").write_text(SKIP)
    return made


def run_of(name):
    (found,) = Path("outputs").glob(f"*/*{name}-*")
    return found


def test_a_skip_of_ones_own_is_chosen_like_any(command, folder):
    help_text = command("--help", f"options={folder}").out
    assert "  mine                  y = a x + F(x), my idea.\n" + " " * 24 + "skip.a=0.9\n" in help_text
    outcome = command("-m", f"options={folder}", "skip=mine,scaled", "skip.a=0.5", *SHORT)
    assert outcome.err.startswith("error: skip.a: skip=scaled has no such option; skip=mine has it")
    assert "2 runs: 0 done" in command("-m", f"options={folder}", "skip=mine", "skip.a=0.5,0.7", *SHORT).out
    stored = yaml.safe_load((run_of("mine_0.5-batch-s0") / "config.yaml").read_text())
    assert stored["skip"] == {"name": "mine", "a": 0.5}
    assert str(folder) not in json.dumps(stored)


def test_it_computes_what_the_file_says(folder):
    net = depthlab.network([f"options={folder}", "skip=mine", "skip.a=0.25", *SHORT])
    x, f = torch.randn(2, 2, 4, 8, 8)
    assert torch.equal(net.units[0].skip(x, f), 0.25 * x + f)
    twin = depthlab.network(["skip=scaled", "skip.scale=0.25", *SHORT])
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(net(images), twin(images))


def test_a_changed_file_is_another_run_where_it_is_used(folder):
    words = [f"options={folder}", "epochs=0", *SHORT]
    depthlab.run([*words, "skip=mine"])
    before = {row["run"] for row in depthlab.runs()}
    (folder / "skip.py").write_text(SKIP.replace("return self.a", "return 2 * self.a"))
    assert depthlab.network([*words, "skip=mine"]).units[0].skip(torch.ones(()), torch.zeros(())) == 1.8
    depthlab.run([*words, "skip=mine"])
    runs = depthlab.runs()
    assert len({row["run"] for row in runs} - before) == 1
    assert len({row["options.skip"] for row in runs}) == 2
    depthlab.run(["epochs=0", *SHORT])
    count = len(depthlab.runs())
    depthlab.run(words)  # skip=identity is depthlab's, whatever lies in the folder
    assert len(depthlab.runs()) == count == 3


def test_every_group_can_be_added_to(folder):
    for group, text in {
        "norm": "from torch import nn\ndef off(channels): return nn.Identity()",
        "init": "def zero(net):\n for p in net.parameters(): p.data.zero_()",
        "activation": "from torch import nn\ndef gelu(*, approximate='none'): return nn.GELU(approximate)",
        "unit": "from depthlab.network.unit import Order\ndef late(): return Order('conv act norm')",
        "weight": "from torch import nn\ndef even(channels, out, kernel, stride, bias, place):\n"
        " return nn.Conv2d(channels, out, kernel, stride, [k // 2 for k in kernel], bias=bias)",
    }.items():
        (folder / f"{group}.py").write_text(text)
    words = ["norm=off", "init=zero", "activation=gelu", "unit=late", "weight=even", "skip=mine"]
    net = depthlab.network([f"options={folder}", *words, *SHORT])
    assert not any(p.any() for p in net.parameters())
    assert {type(m) for m in net.modules()} >= {nn.GELU, nn.Identity, nn.Conv2d}
    assert set(own.FORMS) <= set(config.GROUPS)
    with pytest.raises(Mistake, match=r"^activation=gelu: its gain is not known; init\.gain=1\.4 or so says it$"):
        depthlab.network([f"options={folder}", "activation=gelu", *SHORT])
    assert depthlab.network([f"options={folder}", "activation=gelu", "init.gain=1.5", *SHORT])


def test_a_probe_and_a_data_set_of_ones_own(command, folder):
    (folder / "data.py").write_text("""
from depthlab.data.handwritten import digits as ours
def few(device, *, images: int = 64):
    return ours(device, augment=False, normalize="channel", validation=0, subset=images)
""")
    (folder / "probe.py").write_text("def count(net, x, y, rate, *, by: int = 2): return {'count': by * len(x)}")
    words = [f"options={folder}", "data=few", "probe=[count]", "depth=8", "width=4", "epochs=1", "threads=1"]
    assert "probe.count.by=2" in command(*words, "--help").out
    assert command(*words).code == 0
    assert [look["count"] for look in depthlab.curves(probe="count")] == [128, 128]  # before training, and at the end
    (row,) = depthlab.runs()
    assert row["data.images"] == 64
    assert "options.data" in row
    assert "options.probe" not in row  # what looks at a run is no part of it
    (folder / "probe.py").write_text("def count(net, x, y, rate, *, by: int = 2): return {'count': by + len(x)}")
    assert "done before" not in command(*words).out
    assert [look["count"] for look in depthlab.curves(probe="count")] == [66]
    assert "done before" in command(*words).out


def test_nothing_stays_when_the_command_is_over(command, folder):
    before = {
        group: [*options] for group, options in ConfigStore.instance().repo.items() if isinstance(options, dict)
    }
    depthlab.network([f"options={folder}", "skip=mine", *SHORT])
    after = {group: [*options] for group, options in ConfigStore.instance().repo.items() if isinstance(options, dict)}
    assert {k: v for k, v in after.items() if v} == {k: v for k, v in before.items() if v}
    assert "skip=mine: did you mean" in command("skip=mine", *SHORT).err
    assert "mine" not in command("--help").out
    assert len(config.FOLDERS) == 1


def test_a_stored_config_never_names_a_file_to_run(command, folder):
    depthlab.run([f"options={folder}", "skip=mine", *SHORT])
    run = run_of("mine_0.9-batch-s0")
    line = f"config={run}/config.yaml: was made with a skip of one's own; add options=FOLDER"
    assert command(f"config={run}/config.yaml").err == f"error: {line}\n"
    with pytest.raises(Mistake) as raised:
        depthlab.load(run)
    assert str(raised.value) == line
    assert "done before" in command(f"config={run}/config.yaml", f"options={folder}").out
    assert depthlab.load(run, options=folder).net.units[0].skip.a == 0.9
    (folder / "skip.py").write_text(SKIP + "\n# more\n")
    with pytest.raises(Mistake, match="not the files that the run was made with"):
        depthlab.load(run, options=folder)

    trap = folder / "trap"
    trap.mkdir()
    (trap / "skip.py").write_text("import pathlib; pathlib.Path('sprung').touch()\n" + SKIP)
    values = yaml.safe_load((run / "config.yaml").read_text())
    callbacks = {"callbacks": {"trap": {"_target_": "pathlib.Path.touch", "self": "sprung"}}}
    for more in ({"options": str(trap)}, {"options": [str(trap)]}, {"hydra": callbacks}):
        (run / "config.yaml").write_text(yaml.safe_dump(values | more))
        assert "not the config.yaml of a run" in command(f"config={run}/config.yaml").err
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def mine(x, f): return x + f", "mine(x, f): is called as mine(channels, *, key=value)"),
        ("def mine(channels, *, a): pass", "mine: a needs a usual value, as in a=1.0"),
        ("def mine(channels, *, a=object()): pass", "mine: usual values are numbers, words, true, false, null"),
        ("def mine(channels, *, a: Nothing = 1): pass", "name 'Nothing' is not defined"),
        ("def identity(channels): pass", "identity is the name of one of depthlab's own; choose another"),
        ("x = 3", "skip.py: defines no option, a function or class with a small first letter"),
        ("import nowhere_at_all", "skip.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("\ndef f(:", "skip.py, line 2: invalid syntax"),
    ],
)
def test_a_file_that_will_not_do_is_told_in_one_line(command, folder, text, line):
    (folder / "skip.py").write_text(text.replace(": Nothing", ": 'Nothing'"))
    outcome = command(f"options={folder}", *SHORT)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert line in outcome.err
    assert not Path("outputs").exists()


def test_a_folder_that_will_not_do_is_named(command, folder):
    for given in ("nowhere", "5", "a,b"):
        assert command(f"options={given}", *SHORT).err == f"error: options={given}: no such folder\n"
    (folder / "skip.py").rename(folder / "skips.py")
    assert "holds none of skip.py, unit.py" in command(f"options={folder}", *SHORT).err
    assert command("--config-dir", "nowhere", *SHORT).err == "error: --config-dir nowhere: no such folder\n"


def test_yaml_files_of_ones_own(command, folder, monkeypatch):
    from depthlab.reports import command as report

    (folder / "skip").mkdir()
    (folder / "skip" / "half.yaml").write_text("# half of it\nname: scaled\nscale: 0.5\nbranch: 0.5\n")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "my_question.yaml").write_text(EXPERIMENT)
    listed = command("--config-dir", str(folder), "--help").out
    assert "  half                  half of it\n" in listed
    assert "  my_question           does my skip train?\n" in listed
    assert command("--config-dir", str(folder), "skip=half", "skip.scale=0.6", *SHORT).code == 0
    run = run_of("scaled_0.6_0.5-batch-s0")
    assert "done before" in command(f"config={run}/config.yaml").out  # whose values are all there
    assert depthlab.load(run).net.units[0].skip.scale == 0.6

    line = f"error: skip=mine: no such skip; {folder}/skip.py defines it: options={folder} "
    assert command("--config-dir", str(folder), "skip=mine", *SHORT).err.startswith(line)
    outcome = command("--config-dir", str(folder), "experiment=my_question", *SHORT)
    assert "2 runs: 0 done, 2 to run" in outcome.out
    assert f"report.py outputs/my_question '--config-dir={folder}'\n" in outcome.out
    (file, _) = Path("outputs/my_question").glob("*/config.yaml")
    assert Run(file.parent).experiment() == "my_question"
    assert "done before" in command(f"config={file}").out  # one run again, and no sweep
    monkeypatch.setattr("sys.argv", ["report.py", "outputs/my_question", f"--config-dir={folder}"])
    judged = []
    monkeypatch.setattr(report, "write", lambda *given: judged.append(given))
    report.main()
    del config.FOLDERS[1:]
    ((where, experiment),) = judged
    assert str(where) == "outputs/my_question"
    assert experiment["claims"][0]["claim"] == "the plain network is worse"


MISTAKEN = {
    "skip": """
from torch import nn
class silent(nn.Module):
    def __init__(self, channels): super().__init__()
    def forward(self, x, f): x + f
class torn(silent):
    def forward(self, x, f): return x + f[..., :3]
class early(nn.Module):
    def __init__(self, channels): channels.none
""",
    "probe": """
def bare(net, x, y, rate): return x.mean()
def tensor(net, x, y, rate): return {"mean": x.mean()}
def wrong(net, x, y, rate): return {"mean": net.nothing}
""",
    "data": "def nothing(device): pass\ndef worse(device):\n    return 1 / 0",
}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("skip=silent", "skip=silent: TypeError: relu(): argument 'input' (position 1) must be Tensor, not NoneType"),
        (
            "skip=torn",
            "{}/skip.py, line 7: RuntimeError: The size of tensor a (8) must match the size of tensor b (3)",
        ),
        ("skip=early", "{}/skip.py, line 9: AttributeError: 'int' object has no attribute 'none'"),
        ("probe=[bare]", "probe=bare: returns Tensor; a dict is needed, as in {{'mean': 0.5}}"),
        ("probe=[tensor]", "probe=tensor: mean is Tensor; numbers, texts, lists and dicts are stored"),
        ("probe=[wrong]", "{}/probe.py, line 4: AttributeError: 'Network' object has no attribute 'nothing'"),
        ("data=nothing", "data=nothing: returns NoneType, which lacks labels, task, classes"),
        ("data=worse", "{}/data.py, line 3: ZeroDivisionError: division by zero"),
    ],
)
def test_what_fails_in_ones_own_file_is_one_line(command, folder, words, line):
    for group, text in MISTAKEN.items():
        (folder / f"{group}.py").write_text(text)
    short = [word for word in SHORT if word not in ("data=digits", "recipe.iterations=2") or "data" not in words]
    outcome = command(f"options={folder}", words, *short)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("error: " + line.format(folder))
    assert "Traceback" not in outcome.err


def test_a_failure_that_is_not_ones_own_stays_a_failure(folder, monkeypatch):
    def failing(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("depthlab.run.start._check", failing)
    with pytest.raises(ZeroDivisionError):
        depthlab.run([f"options={folder}", *SHORT])  # skip=identity


def test_a_key_before_the_star_is_shown_its_place(folder):
    (folder / "norm.py").write_text("def early(channels, eps=1e-5): pass")
    form = r"eps belongs behind the star, as in early\(channels, \*, key=value\)"
    with pytest.raises(Mistake, match=form):
        depthlab.network([f"options={folder}", "norm=early", *SHORT])


def test_a_yaml_of_ones_own_without_a_name_is_asked_for_it(command, folder):
    (folder / "skip").mkdir()
    (folder / "skip" / "half.yaml").write_text("# @package skip\nscale: 0.5\n")
    outcome = command("--config-dir", str(folder), "skip=half", *SHORT)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {folder}/skip/half.yaml: has no name: which function takes its values")


def test_data_that_fail_are_one_line_from_python_too(folder):
    (folder / "data.py").write_text(MISTAKEN["data"])
    with pytest.raises(Mistake, match=r"data\.py, line 3: ZeroDivisionError: division by zero$"):
        depthlab.images([f"options={folder}", "data=worse"])


def test_a_data_sets_own_keys_all_count(command, folder):
    """Also those that of our sets say only where the images are."""
    (folder / "data.py").write_text("""
from depthlab.data.handwritten import digits as ours
def few(device, *, root: str = "a", source: str = "x", workers: int = 64, content: str | None = None):
    return ours(device, augment=False, normalize="channel", validation=0, subset=workers)
""")
    words = [f"options={folder}", "data=few", "depth=8", "width=4", "epochs=0", "threads=1"]
    for key in ("data.source=x,y", "data.root=a,b", "data.workers=64,65"):
        assert "2 runs: " in command("-m", *words, key).out
    assert len(depthlab.runs()) == 4


def test_a_file_of_ones_own_imports_from_beside_it(folder):
    (folder / "beside_the_skip.py").write_text("FACTOR = 0.5")
    (folder / "skip.py").write_text(f"from beside_the_skip import FACTOR\n{SKIP.replace('from __future__', '# ')}")
    paths = [*sys.path]
    assert depthlab.network([f"options={folder}", "skip=mine", *SHORT]).units[0].skip.a == 0.9
    assert sys.path == paths
