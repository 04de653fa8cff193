"""Who imports whom, read from the source: imports run one way."""

import ast
import re
import subprocess
import sys

import pytest

from conftest import ROOT

SOURCE = ROOT / "src" / "depthlab"

# What each may import of ours; a package stands for all in it, and each may import its own package.
OURS = {
    "errors": set(),
    "machine": set(),
    "network": {"errors"},
    "probes": {"errors", "machine.memory", "network"},
    "data": {"errors", "machine"},
    "training": {"errors", "machine", "data.dataset", "data.task"},
    "training.recipe": {"errors"},
    "training.schedule": set(),
    "training.kfac": set(),
    "config": {"errors", "training.recipe"},
    "experiment": {"errors", "config"},
    "own": {"errors", "config"},
    "run.directory": {"errors", "machine.files", "config"},
    "reports": {"errors", "config", "experiment", "run.directory"},
    "run": set(),
    "run.console": set(),
    "run.interruption": {"machine.processes"},
    "run.tensorboard": {"reports.profile"},
    "run.probing": {"errors", "network", "data.dataset", "probes", "run.directory"},
    "run.plan": {
        *("errors", "config", "own", "network", "data", "training", "probes"),
        *("run.directory", "run.probing"),
    },
    "run.build": {"errors", "config", "machine", "network", "data.dataset", "training", "run.plan"},
    "run.describe": {"config", "data.dataset", "network.weights", "run.directory", "run.plan"},
    "run.session": {
        *("config", "data.dataset", "network", "training", "run.build", "run.console", "run.describe"),
        *("machine.processes", "run.directory", "run.interruption", "run.plan", "run.probing", "run.tensorboard"),
    },
    "run.start": {
        *("errors", "machine", "data.dataset", "training", "run.build", "run.console", "run.describe"),
        *("run.directory", "run.plan", "run.probing", "run.session"),
    },
    "command": set(),
    "command.words": {"errors", "config", "training.recipe"},
    "command.compose": {"errors", "config", "own", "command.words"},
    "command.cli": {"errors", "config", "machine", "command.words", "command.compose", "run.start"},
    "api": {
        *("errors", "config", "command.compose", "network", "data.dataset", "training", "probes", "reports.collect"),
        *("run.build", "run.console", "run.describe", "run.directory", "run.plan", "run.start"),
    },
}
ROOMS = {"run.directory", *(part.split(".")[0] for part in OURS)}
"""The map's: the packages, the files beside them, and the one file of `run` that reports read."""
HYDRA = {"config", "command", "run.plan", "run.start"}
TORCH = {
    "network",
    "data",
    "probes",
    "training.loop",
    "training.optimizer",
    "training.kfac",
    "training.checkpoint",
    "training.distributed",
    "run.probing",
    "run.plan",
    "run.build",
    "run.describe",
    "run.session",
    "run.start",
    "api",
}
PARTS = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
PARTS.pop("__init__")


def imported(path, everywhere=True):
    """Full names of the modules that a file imports, also inside its functions if `everywhere`."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {f"depthlab.{part}" for part in PARTS}
            names |= inside & modules
            names |= {node.module} if inside - modules and node.module != "depthlab" else set()
    return names


def within(part, parts):
    return any(part == other or part.startswith(f"{other}.") for other in parts)


def row(table, part):
    """The most exact row for a part."""
    return table[max((key for key in table if within(part, {key})), key=len)]


@pytest.mark.parametrize("part", PARTS)
def test_each_part_imports_only_what_its_row_allows(part):
    ours = {name.removeprefix("depthlab.") for name in imported(PARTS[part]) if name.split(".")[0] == "depthlab"}
    package = part.split(".")[0] if part not in OURS else None
    siblings = {part.split(".")[0]} if package or (SOURCE / part).is_dir() else set()
    assert {name for name in ours if not within(name, row(OURS, part) | siblings)} == set()


@pytest.mark.parametrize("part", PARTS)
def test_hydra_and_torch_stay_where_they_belong(part):
    names = {name.split(".")[0] for name in imported(PARTS[part], everywhere=False)}
    assert within(part, HYDRA) or not names & {"hydra", "omegaconf"}
    assert within(part, TORCH) or "torch" not in names


def test_no_skip_norm_init_or_activation_knows_another():
    """A leaf is one file, which knows at most where it stands, a unit how to be computed again, an init how a layer
    gives zeros; what composes them gets them as functions.
    """
    leaves = {"network.skip", "network.norm", "network.init", "network.activation", "network.unit"}
    for leaf in leaves:
        ours = {name for name in imported(PARTS[leaf]) if name.startswith("depthlab")}
        own = {"network.unit": "recompute", "network.init": "silence"}
        assert ours <= {"depthlab.errors", "depthlab.network.place", f"depthlab.network.{own.get(leaf)}"}


def test_every_row_is_a_part_and_every_part_has_a_row():
    assert OURS.keys() | HYDRA | TORCH <= {*PARTS, "training"}
    assert all(any(within(part, {key}) for key in OURS) for part in PARTS)


def test_the_command_line_can_be_read_without_torch():
    code = "import sys, depthlab.config, depthlab.errors, depthlab.reports.command, depthlab.training.schedule\n"
    code += "assert 'depthlab.training.recipe' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def room(part):
    return max((room for room in ROOMS if within(part, {room})), key=len)


def test_the_map_in_the_docs_is_this_table_without_a_circle():
    """Each room stands below all that it imports."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    drawn = {name: {*re.findall(r"`([\w.]+)`", allowed)} for name, allowed in rows}
    rooms: dict[str, set[str]] = {name: set() for name in ROOMS}
    for part, allowed in OURS.items():
        rooms[room(part)] |= {room(name) for name in allowed} - {room(part)}
    assert drawn == rooms
    above = set()
    for name, allowed in drawn.items():
        assert allowed <= above
        above.add(name)
