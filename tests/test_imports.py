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
    "files": set(),
    "gpus": set(),
    "allocator": set(),
    "workers": set(),
    "observe": {"reports.profile"},
    "network": {"errors"},
    "probes": {"errors", "network"},
    "measure": {"errors", "runs", "network", "data.dataset", "probes"},
    "data": {"errors", "files", "workers"},
    "training": {"errors", "files", "workers", "data.dataset", "data.task"},
    "training.recipe": {"errors"},
    "training.schedule": set(),
    "training.kfac": set(),
    "config": {"errors", "training.recipe"},
    "runs": {"errors", "files", "config"},
    "plan": {"errors", "config", "runs", "network", "data", "training", "probes", "measure"},
    "describe": {"config", "plan", "runs", "data.dataset", "network.weights"},
    "reports": {"errors", "config", "runs"},
    "app": {
        *("errors", "allocator", "config", "gpus", "workers", "runs", "plan", "describe", "measure", "observe"),
        *("data.dataset", "network", "training"),
    },
    "words": {"errors", "config", "training.recipe"},
    "compose": {"errors", "config", "words"},
    "command": {"errors", "config", "compose", "words", "app"},
    "api": {
        *("errors", "config", "compose", "app", "plan", "runs", "reports.collect", "data.dataset", "network"),
        *("probes", "training"),
    },
}
HYDRA = {"config", "words", "compose", "command", "plan", "app"}
TORCH = {
    "network",
    "data",
    "probes",
    "measure",
    "training.loop",
    "training.optimizer",
    "training.kfac",
    "training.checkpoint",
    "training.distributed",
    "plan",
    "describe",
    "app",
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
    """A leaf is one file, which knows at most where it stands; what composes them gets them as functions."""
    leaves = {"network.skip", "network.norm", "network.init", "network.activation", "network.unit"}
    for leaf in leaves:
        ours = {name for name in imported(PARTS[leaf]) if name.startswith("depthlab")}
        assert ours <= {"depthlab.errors", "depthlab.network.place"}


def test_every_row_is_a_part_and_every_part_has_a_row():
    assert OURS.keys() | HYDRA | TORCH <= {*PARTS, "training"}
    assert all(any(within(part, {key}) for key in OURS) for part in PARTS)


def test_the_command_line_can_be_read_without_torch():
    code = (
        "import sys, depthlab.config, depthlab.runs, depthlab.errors, depthlab.observe, depthlab.training.schedule\n"
    )
    code += "assert 'depthlab.training.recipe' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_map_in_the_docs_is_this_table():
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    rooms: dict[str, set[str]] = {}
    for part, allowed in OURS.items():
        rooms.setdefault(part.split(".")[0], set()).update(name.split(".")[0] for name in allowed)
    drawn = {room: {*re.findall(r"`(\w+)`", allowed)} for room, allowed in rows}
    assert drawn == {room: allowed - {room} for room, allowed in rooms.items()}
