"""A mistake in an experiment's YAML file is one line, before anything is trained."""

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from conftest import ROOT
from depthlab import experiment
from depthlab.errors import Mistake

KINDS = [
    experiment.Experiment,
    *get_args(experiment.Claim),
    experiment.Crossing,
    experiment.Published,
    experiment.Scale,
]
KINDS += [experiment.Measured, experiment.Law, experiment.OverDepth, experiment.Line, experiment.Against]
KINDS += [experiment.Pictures]
SHORT = ("data=digits", "width=4", "recipe.iterations=2")
WHOLE = """# @package _global_
# q?
defaults:
  - override /probe: [lambda_product]
experiment:
  seeds: [0]
  runs:
    - depth=8 skip=none,identity
    - depth=8 skip=scaled skip.scale=0.5
  scales:
    mnist1d: {runs: [depth=20 norm=layer]}
  claims:
    - claim: a
      higher: {skip: none}
      lower: {depth: 8, skip: identity}
    - claim: b
      metric: lambda_product.first_shortcut
      of: {skip: scaled, skip.scale: 0.5}
      equals: 3
      within: 1
  figures:
    - title: t
      y: lambda_product.shortcut
"""
NUMBER = "published: [{of: {depth: 8}, value: 1, within: "
# what is written instead, and what the line says of it
MISTAKES = [
    ("higher:", "highr:", "claims[0].highr: no such key; did you mean higher? (allowed: claim, higher,"),
    ("within: 1", "wthin: 1", "claims[1].wthin: no such key; did you mean within? (allowed: claim, metric,"),
    ("      within: 1\n", "", "claims[1].within: is missing"),
    ("within: 1", "within: much", "claims[1].within=much: a number"),
    ("equals: 3", "equals: a", "claims[1].equals=a: a number"),
    ("of: {skip: scaled, skip.scale: 0.5}", "of: skip=none", "claims[1].of=skip=none: keys with their values"),
    ("equals: 3", "equals: {skip: conv}", "claims[1].equals.skip=conv: "),
    ("  claims:", "  claim:", "claim: no such key; did you mean claims? (allowed: seeds, runs, claims,"),
    ("seeds: [0]", "seeds: 3", "seeds=3: a list, as in [a, b]"),
    ("seeds: [0]", "seeds: [1.5]", "seeds[0]=1.5: a whole number"),
    ("seeds: [0]", "seeds: []", "seeds: at least one"),
    ("  seeds: [0]\n", "", "seeds: is missing"),
    ("{runs: [depth=20 norm=layer]}", "{seeds: []}", "scales.mnist1d.seeds: at least one"),
    ("{runs: [depth=20 norm=layer]}", "{seeds: [a]}", "scales.mnist1d.seeds[0]=a: a whole number"),
    ("{runs: [depth=20 norm=layer]}", "{runs: []}", "scales.mnist1d.runs: at least one"),
    ("norm=layer]}", "norm='layer]}", "scales.mnist1d.runs[0]=depth=20 norm='layer: no closing quotation"),
    ("skip=none,identity", "skip='none", "runs[0]=depth=8 skip='none: no closing quotation"),
    ("within: 1", "within: -1", "claims[1].within=-1: from 0 on"),
    ("equals: 3\n      within: 1", "least: 3\n      most: 2", "claims[1]: least=3 is above most=2"),
    ("equals: 3\n      within: 1", "least: 3\n      most: null", "claims[1].most: needs a value; or leave it out"),
    ("within: 1", "within: 1\n      crosses: null", "claims[1].crosses: needs a value; or leave it out"),
    ("  claims:", "  title: null\n  claims:", "title: needs a value; or leave it out"),
    ("  claims:", f"  {NUMBER}[6.3]}}]\n  claims:", "published[0].within=[6.3]: the least and the most"),
    ("  claims:", f"  {NUMBER}[7, 6]}}]\n  claims:", "published[0].within=[7, 6]: the least and the most"),
    ("mnist1d: {runs", "minst1d: {runs", "scales.minst1d: no such data set; did you mean mnist1d?"),
    ("{runs: [", "{run: [", "scales.mnist1d.run: no such key; did you mean runs?"),
    ("      y: ", "      x: ", "figures[0].y: is missing"),
    ("y: lambda_product.shortcut", "y: shortcut", "figures[0].y=shortcut: what a probe measures, PROBE.KEY"),
    ("y: lambda_product.", "y: lamda_product.", "figures[0].y=lamda_product.shortcut: measured by a probe "),
    ("title: t", "title: t\n      log: 5 %", "figures[0].log=5 %: true or false"),
    ("title: t", "title: t\n      ylable: error", "figures[0].ylable: no such key; did you mean ylabel?"),
    ("title: t", "title: t\n      of: {skip: conv}", "figures[0].of.skip=conv: "),
    ("claim: a", "claim: a\n      metric: train_eror", "claims[0].metric=train_eror: did you mean train_error?"),
    ("claim: a", "claim: a\n      metric: clean_test_error", "claims[0].metric=clean_test_error: did you mean "),
    ("metric: lambda_product", "metric: lamda", "claims[1].metric=lamda.first_shortcut: measured by a probe "),
    ("[lambda_product]", "[]", "claims[1].metric=lambda_product.first_shortcut: measured by a probe that is"),
    ("lower: {depth: 8, skip:", "lower: {depth: 8, skp:", "claims[0].lower.skp: no run has it; did you mean skip?"),
    ("8, skip: identity", "8, skip: conv", "claims[0].lower.skip=conv: "),
    ("scale: 0.5}", "scale: 0.7}", "claims[1].of.skip.scale=0.7: did you mean 0.5? (allowed: 0.5)"),
    ("{skip: none", "{skip: none, skip.scale: 0.5", "claims[0].higher: no run is skip=none skip.scale=0.5"),
    ("{skip: none", "{depth: 8", "claims[0].higher: depth=8 is 3 rows; name one by skip, skip.scale, "),
]  # fmt: skip
# what is written instead in the file, and the whole line
FILES = [
    ("  runs:", "   runs:", "ideas/experiment/mine.yaml, line 7: no YAML; is it indented as the lines around it? ("),
    (
        "# @package _global_\n",
        "",
        "ideas/experiment/mine.yaml: its first line has to be # @package _global_, which says",
    ),
    ("# q?", "# q?\nepoch: 3", "experiment/mine.yaml: epoch: no such option; did you mean epochs? (allowed: depth,"),
    ("# q?", "# q?\nrecipe: {rte: 3}", "experiment/mine.yaml: recipe.rte: no such option; did you mean recipe.rate?"),
    ("# q?", "# q?\nnorm: group", "norm: group: a YAML file chooses it under defaults: - override /norm: group"),
    ("# q?", "# q?\ndepth: deep", "experiment/mine.yaml: depth=deep: a whole number"),
    (WHOLE[WHOLE.index("exper") :], "depth: 8\n", "ideas/experiment/mine.yaml: has no experiment: with its seeds"),
    (WHOLE[20:], "- a\n", "ideas/experiment/mine.yaml: holds no keys with their values"),
]


def refused(command, text):
    file = Path("ideas/experiment/mine.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    outcome = command("--config-dir", "ideas", "experiment=mine", *SHORT)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert not Path("outputs").exists()
    return outcome.err.removeprefix("error: ")


@pytest.mark.parametrize(("right", "wrong", "line"), MISTAKES)
def test_a_mistake_in_an_experiment_is_refused_before_its_first_run(command, right, wrong, line):
    assert WHOLE.count(right) == 1
    assert refused(command, WHOLE.replace(right, wrong)).startswith(f"experiment=mine: {line}")


@pytest.mark.parametrize(("right", "wrong", "line"), FILES)
def test_a_mistake_in_its_file_names_the_file(command, right, wrong, line):
    assert WHOLE.count(right) == 1
    assert refused(command, WHOLE.replace(right, wrong)).startswith(line)


def test_without_a_mistake_it_runs_and_what_is_typed_instead_is_no_mistake(command):
    folder = Path("ideas/experiment")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(WHOLE)
    typed = ["--config-dir", "ideas", "experiment=mine", *SHORT]
    assert command(*typed).code == 0
    assert command(*typed, "depth=14", "probe=[]", "epochs=0").code == 0


@pytest.mark.parametrize("file", sorted((ROOT / "configs/experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_those_of_depthlab_hold_known_keys_alone(file):
    experiment.check(file.stem, yaml.safe_load(file.read_text())["experiment"])


@pytest.mark.parametrize(
    "given", [None, [1], "a", {}, {"seeds": [0], "runs": "depth=8"}, {"seeds": [0], "runs": [[1]]}]
)
def test_what_is_no_experiment_at_all(given):
    with pytest.raises(Mistake, match=r"^experiment=x: "):
        experiment.check("x", given)


def test_the_table_in_the_docs_is_the_schema():
    page = (ROOT / "docs" / "extending.md").read_text().partition("## The keys of an experiment")[2]
    rows = re.findall(r"^\| (?!part|--).* \|(.*)\|(.*)\|$", page, re.MULTILINE)
    told = [tuple(re.findall(r"`(\w+)`", cell) for cell in row) for row in rows]
    kept = [[(f.name, f.default is f.default_factory is MISSING) for f in fields(kind)] for kind in KINDS]
    assert sorted(told) == sorted(
        ([name for name, needed in keys if needed], [name for name, needed in keys if not needed]) for keys in kept
    )
