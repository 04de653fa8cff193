"""The grid is the paper's rows, each run can be built, each claim selects rows of the grid."""

import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

import experiments
from conftest import ROOT
from depthlab.command.compose import compose
from depthlab.config import experiment_rows, swept, texts
from depthlab.experiment import check
from depthlab.reports.collect import Result, rows
from depthlab.reports.verdict import judge
from depthlab.run.plan import plan
from hydra_plugins.depthlab_sweeper import composed, foresee

NAMES = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml"))
FEWER = {"precision_horizon"}
"""On CIFAR-10 they have only the first of their rows."""
SCALE = {"imagenet_depth": "imagenet", "unet": "scenes", "hourglass": "scenes"}


@cache
def grid(name, data):
    """The overrides of each run of an experiment, without the seeds."""
    experiment = compose([f"experiment={name}", f"data={data}"]).cfg.experiment
    jobs = []
    for _, *row in experiment_rows(experiment, data):
        keys = {override.partition("=")[0]: swept(override) for override in row}
        jobs += [dict(zip(keys, values, strict=True)) for values in product(*keys.values())]
    return jobs


def planned_runs(name, data, *typed):
    loader = ConfigLoaderImpl(create_config_search_path(str(ROOT / "configs")))
    sweep, words = loader.load_configuration("train", [], RunMode.MULTIRUN), [f"experiment={name}", f"data={data}"]
    jobs = [[*words, *(f"{key}={value}" for key, value in job.items()), *typed] for job in grid(name, data)]
    return [plan(*made) for made in composed(loader, sweep, jobs)]


@pytest.mark.parametrize("name", NAMES)
def test_its_keys_are_those_of_an_experiment(name):
    check(name, yaml.safe_load(texts("experiment")[name])["experiment"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ["digits", "paper"])
def test_every_run_can_be_built_and_every_claim_selects(name, data):
    data = SCALE.get(name, "cifar10") if data == "paper" else data
    if data == "digits" and name in SCALE:
        pytest.skip("an experiment on data of another kind")
    results, plans, experiment = [], [], compose([f"experiment={name}"]).cfg.experiment
    metrics = [
        claim.metric
        for claim in [*experiment.get("claims", []), *experiment.get("published", [])]
        if "metric" in claim
    ]
    probes = {m.split(".")[0]: [{n.split(".")[-1]: 1.0 for n in metrics}] for m in metrics if "." in m}
    for planned in planned_runs(name, data):
        assert planned.run.path.parent == Path("outputs") / name
        assert {*probes} <= {probe.name for probe in planned.probes}
        plans.append(planned)
        for seed in range(3):
            final = dict.fromkeys(("train_error", "clean_train_error", "test_error", "train_loss", *metrics), 1.0)
            summary = {"choices": planned.choices, "seed": seed, "final": final, "status": "finished"}
            results.append(Result(planned.run.path, planned.config | {"seed": seed}, summary, [{"step": 1}], probes))
    foresee(name, OmegaConf.to_container(experiment), plans, [])  # all claims are about what some run will be
    made = rows(results)
    assert len(made) == len(plans)
    assert len({row.label for row in made}) == len(made)
    for verdict in judge(experiment, made):
        if data != "digits" and name not in FEWER:
            assert verdict.word != "not run", verdict


@pytest.mark.parametrize("name", [name for name in NAMES if "published_at" in texts("experiment")[name]])
def test_epochs_may_be_typed_in_place_of_iterations(name):
    data = SCALE.get(name, "digits")
    experiment = OmegaConf.to_container(compose([f"experiment={name}"]).cfg.experiment)
    foresee(name, experiment, planned_runs(name, data, "epochs=1"), ["epochs=1"])


def choices(name, key, data="cifar10"):
    return [job[key] for job in grid(name, data) if key in job]


def test_degradation_is_table_6_and_its_plain_twins():
    assert {(job["depth"], job["skip"]) for job in grid("degradation", "cifar10")} == {
        *product(("20", "32", "44", "56", "110"), ("none", "identity"))
    }
    assert {job["depth"] for job in grid("degradation", "digits")} == {"8", "20", "32", "44", "56", "110"}


def test_shortcut_types_holds_every_row_of_table_1_and_the_bias_search():
    jobs = grid("shortcut_types", "cifar10")
    assert {j["skip"] for j in jobs} == {
        *("identity", "none", "scaled", "scaled_both", "exclusive_gate", "shortcut_gate", "conv", "dropout")
    }
    for gate in ("exclusive_gate", "shortcut_gate"):
        assert {int(j["skip.bias"]) for j in jobs if j["skip"] == gate} == set(range(-10, 1))
    assert all(j["recipe"] == "he2016" for j in jobs)
    assert compose(["experiment=shortcut_types"]).cfg.depth == 110


def test_activation_order_is_table_2():
    units = ("original", "bn_after_addition", "relu_before_addition", "relu_only_preact", "preact")
    jobs = grid("activation_order", "cifar10")
    assert {(j["depth"], j["unit"]) for j in jobs} == {*product(("110", "164"), units)}
    assert {j.get("block") for j in jobs if j["depth"] == "164"} == {"bottleneck"}


def test_deep_preact_is_table_3():
    for data, depths in (("cifar10", {"110", "164", "1001"}), ("cifar100", {"164", "1001"})):
        assert {j["depth"] for j in grid("deep_preact", data)} == depths
    assert {j["block"] for j in grid("deep_preact", "cifar10") if j["depth"] == "110"} == {"single", "basic"}


def test_published_numbers_are_the_papers():
    def published(name):
        return {tuple(n["of"].values()): n["value"] for n in compose([f"experiment={name}"]).cfg.experiment.published}

    table_6 = published("degradation")
    assert [table_6[d, "identity"] for d in (20, 32, 44, 56, 110)] == [8.75, 7.51, 7.17, 6.97, 6.61]
    table_1 = published("shortcut_types")
    assert table_1[("identity",)] == 6.61
    assert table_1["exclusive_gate", -6] == 8.70
    assert table_1["exclusive_gate", -7] == 9.81
    assert table_1["shortcut_gate", 0] == 12.86
    assert table_1["shortcut_gate", -6] == 6.91
    assert table_1[("conv",)] == 12.22
    assert table_1[("scaled_both",)] == 12.35
    assert {table_1[key] for key in (("none",), ("scaled",), ("dropout",), ("exclusive_gate", 0))} == {"fail"}
    table_2 = published("activation_order")
    assert [table_2[d, "preact"] for d in (110, 164)] == [6.37, 5.46]
    assert [table_2[d, "bn_after_addition"] for d in (110, 164)] == [8.17, 6.50]


def test_an_experiment_is_a_sweep_without_m_and_what_is_typed_goes_before_its_grid(command):
    short = ("experiment=degradation", "data=digits", "width=4", "depth=8", "recipe.iterations=2")
    first = command(*short)
    assert first.code == 0
    assert first.out.startswith("6 runs: 0 done, 6 to run\n")
    assert len([*Path("outputs/degradation").glob("*8-*/summary.json")]) == 6
    assert command(*short, "seed=0,1,2,3").out.startswith("8 runs: 6 done, 2 to run\n")


def test_the_page_of_experiments_is_that_of_the_yaml_files_and_the_reports():
    assert sorted(" ".join(experiments.THEMES.values()).split()) == NAMES
    page = experiments.PAGE.read_text()
    assert page == experiments.page(), "stale: python scripts/experiments.py"
    reports = "".join(file.read_text() for file in (ROOT / "results").rglob("report.md"))
    contradicted = re.findall(r"^- \*\*contradicted\*\*(: .*\n)", reports, re.MULTILINE)
    assert len(contradicted) > 20
    assert all(f"  - contradicted{line}" in page for line in contradicted)
