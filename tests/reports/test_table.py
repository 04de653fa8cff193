"""The numbers of the tables against ones computed by hand, and what is said to be missing."""

import json
import math
import re

import pytest
from made import run

from depthlab.config import FOLDERS, experiment_rows
from depthlab.reports import table as table_module
from depthlab.reports.collect import load, rows, telling
from depthlab.reports.table import about, beside, best, gather, grid, markdown, missing, table, terminal

EXPERIMENT = {
    "title": "Deeper is worse",
    "source": "a paper, Table 1",
    "seeds": [0, 1, 2],
    "runs": ["depth=20,56 skip=none", "depth=20 skip=scaled skip.scale=0.5"],
    "claims": [
        {"claim": "56 worse than 20", "higher": {"depth": 56}, "lower": {"depth": 20}},
        {"claim": "skips help", "higher": {"skip": "none"}, "lower": {"skip": "identity"}},
    ],
    "published_at": {"data": "cifar10"},
    "published": [{"of": {"depth": 20}, "value": 8.75, "within": [8, 9]}],
}


@pytest.fixture
def folder(tmp_path):
    """20 layers end at 1, 2, 6 % (train) and 8, 9, 10 % (test), 56 layers at 40, 41, 42 and 50, 51, 52 %."""
    folder = tmp_path / "deeper"
    for seed, (train, test) in enumerate([(1.0, 8.0), (2.0, 9.0), (6.0, 10.0)]):
        run(folder, 20, seed=seed, train=(50.0, train), test=(6.0, test))
    for seed in range(3):
        run(folder, 56, seed=seed, train=(50.0, 40.0 + seed), test=(60.0, 50.0 + seed))
    return folder


def test_numbers(folder):
    (sheet,) = gather(folder).sheets
    heading, first, second = table(sheet)
    assert heading == [
        *("row", "seeds", "train error", "median", "test error", "median", "best epoch's test", "parameters")
    ]
    assert first == ["depth=20", "3", "3.00 ± 2.65", "2.00", "9.00 ± 1.00", "9.00", "6.00", "20,000"]
    assert second == ["depth=56", "3", "41.00 ± 1.00", "41.00", "51.00 ± 1.00", "51.00", "51.00", "56,000"]


def test_one_seed_has_no_deviation_and_a_diverged_run_is_counted(tmp_path):
    run(tmp_path, 20)
    run(tmp_path, 56, status="diverged", train=(90.0, math.nan), test=(90.0, math.nan))
    report = gather(tmp_path)
    heading, first, second = table(report.sheets[0])
    assert heading[-1] == "diverged"
    assert (first[2], first[-1]) == ("10.00", "0")
    assert (second[2], second[-1]) == ("100.00", "1")
    assert "counted as 100 %" in terminal(report)


def test_a_sheet_a_data_set(tmp_path):
    for data in ("digits", "cifar10"):
        run(tmp_path, 20, data=data)
    sheets = gather(tmp_path, EXPERIMENT).sheets
    for sheet, data in zip(sheets, ("cifar10", "digits"), strict=True):
        assert (sheet.data, len(sheet.rows)) == (data, 1)
        assert sheet.commands.splitlines() == [
            f"python train.py experiment={tmp_path.name} data={data}",
            f"python scripts/report.py outputs/{tmp_path.name}",
        ]
    assert table(sheets[0])[1][-1] == "8.75"
    assert "published test" not in table(sheets[1])[0]


def test_the_commands_of_a_sweep_and_of_an_experiment_of_ones_own(tmp_path, monkeypatch):
    folder, ideas = tmp_path / "my sweep", tmp_path / "ideas"
    path = run(folder, config={"options": {"skip": "0a1b2c3d"}})
    (sheet,) = gather(folder).sheets
    assert sheet.commands.splitlines() == [
        f"python train.py 'config=outputs/my sweep/{path.name}/config.yaml' options=FOLDER",
        "python scripts/report.py 'outputs/my sweep'",
    ]
    (ideas / "experiment").mkdir(parents=True)
    (ideas / "experiment" / "my sweep.yaml").touch()
    (ideas / "skip.py").touch()
    monkeypatch.setattr(table_module, "FOLDERS", [*FOLDERS, ideas])
    (sheet,) = gather(folder, EXPERIMENT).sheets
    assert sheet.commands.splitlines() == [
        f"python train.py 'experiment=my sweep' data=digits options={ideas} --config-dir={ideas}",
        f"python scripts/report.py 'outputs/my sweep' --config-dir={ideas}",
    ]


def test_commands_that_were_typed_stand_in_the_report(tmp_path):
    commands = ["python train.py -m depth=20 seed=0,1", "python train.py depth=56 epochs=3"]
    for depth, seed, command in ((20, 0, commands[0]), (20, 1, commands[0]), (56, 0, commands[1])):
        summary = run(tmp_path, depth, seed=seed) / "summary.json"
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {"command": command}))
    (sheet,) = gather(tmp_path, EXPERIMENT).sheets
    assert sheet.commands.splitlines() == [*commands, f"python scripts/report.py outputs/{tmp_path.name}"]


def test_verdicts_stand_in_the_report_and_a_claim_on_several_rows_does_not_stop_it(folder):
    (sheet,) = gather(folder, EXPERIMENT).sheets
    first, second, third = sheet.verdicts
    assert (first.word, first.claim) == ("reproduced", "56 worse than 20")
    assert (second.word, "selects 2 rows" in second.because) == ("undecided", True)
    assert (third.word, third.claim) == ("not run", "1 published number")
    assert "data=cifar10" in third.because
    said = terminal(gather(folder, EXPERIMENT))
    assert "reproduced" in said
    assert "Deeper is worse (a paper, Table 1)" in said


def test_what_the_experiment_has_and_the_folder_has_not(folder):
    (sheet,) = gather(folder, EXPERIMENT).sheets
    assert sheet.missing == ["depth=20 skip=scaled skip.scale=0.5: no finished run"]
    assert gather(folder).sheets[0].missing == []


def test_seeds_that_a_row_lacks(folder):
    run(folder, 110, seed=1)
    lines = ["depth=110: 1 of 3 seeds; not there: seeds 0, 2"]
    assert gather(folder).sheets[0].missing == lines
    assert missing([], [0, 1, 2, 3], gather(folder).sheets[0].rows)[-1] == (
        "depth=110: 1 of 4 seeds; not there: seeds 0, 2, 3"
    )


def test_grid():
    assert grid(
        [["seed=0,1", "recipe/schedule=cosine", "probe.lesion.images=9", "d=false", "a=1,x", "b.c=0.5,1e-4"]]
    ) == [{"d": None, "a": a, "b.c": c} for a in (1, "x") for c in (0.5, 1e-4)]
    twins = [{"weights.depth": 20, "weights.r.e": 0.1}, {"weights": None}]
    assert grid([["weights={depth:20, r.e: 0.1},null"]]) == twins
    assert grid([["recipe/optimizer=sgd,muon"]]) == [{"recipe.optimizer.name": name} for name in (None, "muon")]
    assert grid([["k=[1],[1,2],null,[a]"]]) == [{"k": [1]}, {"k": [1, 2]}, {"k": None}, {"k": ["a"]}]


def test_a_data_set_can_have_runs_and_options_of_its_own(folder):
    own = {"scales": {"digits": {"options": ["skip=none"], "runs": ["depth=20,32,56"]}}}
    (sheet,) = gather(folder, EXPERIMENT | own).sheets
    assert sheet.missing == ["skip=none depth=32: no finished run"]
    own["scales"]["digits"] = {"seeds": [5, 6], "runs": ["depth=20,56"]}
    assert experiment_rows(EXPERIMENT | own, "digits") == [["seed=5,6", "depth=20,56"]]
    (sheet,) = gather(folder, EXPERIMENT | own).sheets
    assert sheet.missing[0].endswith("; not there: seeds 5, 6")
    assert experiment_rows({"seeds": [1], "runs": ["depth=8"]} | own, "mnist1d") == [["seed=1", "depth=8"]]


def test_unfinished_and_broken_runs_are_named_and_skipped(folder):
    (run(folder, 32) / "summary.json").unlink()
    broken = {
        "summary.json": ["{", "[]", "{}", json.dumps({"choices": {}})],
        "metrics.jsonl": ["", "{\n"],
        "config.yaml": ["a: [", "7"],
    }
    for number, (name, texts) in enumerate(broken.items()):
        for text in texts:
            path = run(folder, 200 + number, seed=texts.index(text))
            (path / name).write_text(text)
            names = path.name
            assert names in "".join(gather(folder).broken)
    report = gather(folder)
    assert [result.path.name for result in report.unfinished] == ["resnet32-none-digits-s0"]
    assert len(report.broken) == 8
    assert [row.label for row in report.sheets[0].rows] == ["depth=20", "depth=56"]
    for text in (terminal(report), markdown(report)):
        line = "unfinished: resnet32-none-digits-s0, iteration 300 of 1,000, train error 10.00 %, test error 15.00 %"
        assert line in text
        assert text.count("broken, skipped") == 8


def test_a_folder_without_finished_runs(tmp_path):
    (run(tmp_path) / "summary.json").unlink()
    (sheet,) = (report := gather(tmp_path, EXPERIMENT)).sheets
    assert (sheet.rows, [row.label for row in sheet.running]) == ([], ["depth=20 skip=none"])
    assert {verdict.word for verdict in sheet.verdicts} == {"not run"}
    assert "no finished run yet" in terminal(report)
    assert "unfinished: " in markdown(report)


def test_an_unfinished_seed_is_drawn_and_not_averaged(folder):
    (run(folder, 20, seed=3, train=(99.0,), test=(99.0,)) / "summary.json").unlink()
    before = table(gather(folder).sheets[0])
    (sheet,) = gather(folder).sheets
    assert [(row.label, len(row.results)) for row in sheet.rows] == [("depth=20", 3), ("depth=56", 3)]
    assert [(row.label, row.results[0].progress) for row in sheet.running] == [("depth=20", "iteration 100 of 1,000")]
    assert before[1][2] == "3.00 ± 2.65"


def test_a_run_that_has_not_come_to_its_first_evaluation(folder):
    path = run(folder, 32)
    (path / "summary.json").unlink()
    (path / "metrics.jsonl").write_text("")
    report = gather(folder)
    assert "unfinished: resnet32-none-digits-s0, no evaluation yet" in terminal(report)
    assert report.sheets[0].running == []


def test_the_length_of_a_run_in_epochs(folder):
    (run(folder, 32, config={"epochs": 12, "recipe": {"iterations": None}}) / "summary.json").unlink()
    (result,) = gather(folder).unfinished
    assert result.progress == "iteration 300 of 1,200"


def test_the_length_of_a_run_that_trains_nothing(folder):
    path = run(folder, 32, config={"epochs": 0, "recipe": {"iterations": None}})
    (path / "summary.json").unlink()
    (path / "metrics.jsonl").write_text('{"step": 0, "epoch": 0.0, "test_error": 90.0, "lr": 0.1}\n')
    assert "iteration 0 of 0" in terminal(gather(folder))


def test_versions_are_a_set(folder):
    path = run(folder, 32)
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | {"device": "NVIDIA H200", "git_commit": None}))
    assert gather(folder).sheets[0].versions == (
        "torch 2.9.0; python 3.11.7; device NVIDIA H200, cpu; precision fp32; "
        "commit 0123456789ab, unknown; iterations 200, 300"
    )


def test_markdown(folder):
    text = markdown(gather(folder, EXPERIMENT))
    assert text.startswith("# Deeper is worse\n\na paper, Table 1\n")
    assert "| depth=20 | 3 | 3.00 ± 2.65 |" in text
    assert "python train.py experiment=deeper data=digits\n" in text
    assert re.search(r"!\[Error against iterations: [^]]*\]\(curves-digits\.svg\)", text)
    assert "- **reproduced**: 56 worse than 20 (train_error 41.00 ± 1.00 against 3.00 ± 2.65" in text
    assert "python train.py config=outputs/deeper/" in markdown(gather(folder))


def test_markdown_survives_labels(tmp_path):
    for skip in ("a|b", "<b>*"):
        run(tmp_path, skip=skip)
    text = markdown(gather(tmp_path))
    assert "skip=a\\|b" in text
    assert "skip=&lt;b>\\*" in text


def test_what_of_the_recipe_follows_from_another_key_is_no_part_of_a_label():
    facts = [
        {"depth": depth, "recipe.optimizer.name": name, "recipe.rate": rate, "recipe.warmup.rate": warmup}
        for depth in (20, 56)
        for name, warmup in (("sgd", 0.01), ("adamw", 1e-4))
        for rate in (0.1, 0.3)
    ]
    assert telling(facts) == ["depth", "recipe.optimizer.name", "recipe.rate"]
    facts[0]["recipe.warmup.rate"] = 0.02
    assert telling(facts)[-1] == "recipe.warmup.rate"


BATCH = {"norm": {"name": "batch"}}


def test_lines_side_by_side_each_at_its_best_rate(tmp_path):
    folder = tmp_path / "cures"
    for depth in (20, 56):
        for rate, error in ((0.1, 30.0), (0.3, 3.0)):
            for skip, less in (("none", 0), ("identity", 2)):
                run(
                    folder,
                    depth,
                    skip,
                    train=(error - less,),
                    test=(9.0,),
                    config={"recipe": {"rate": rate}, **BATCH},
                )
    lines = {"plain": "skip=none", "residual": "skip=identity", "neither": "skip=none norm=none"}
    (folder / "steps.json").write_text(json.dumps({"residual": 1.234}))
    rows = best(lines, gather(folder).sheets[0].rows)
    assert [row.label for row in rows["residual"]] == ["depth=20 residual", "depth=56 residual"]
    assert rows["residual"][0].facts["recipe.rate"] == 0.3
    heading, plain, residual, neither = beside(rows, folder)
    assert heading[:5] == ["", "norm", "shortcut", "train error, 20 layers", "train error, 56 layers"]
    assert plain[:5] == ["plain", "yes", "no", "3.00", "3.00"]
    assert residual[:5] == ["residual", "yes", "yes", "1.00", "1.00"]
    assert residual[-2:] == ["+0", "1.23"]
    assert neither == ["neither", "–", "–", "–", "–", "–", "–", "–", "–"]


def test_a_block_that_follows_from_the_network_is_not_told(tmp_path):
    for seed in range(2):
        run(tmp_path, seed=seed, config={"network": {"name": "resnet"}, "block": "basic"})
        run(tmp_path, seed=seed, config={"network": {"name": "densenet"}, "block": "bottleneck"})
    labels = {row.label for row in rows(load(tmp_path)[0])}
    assert labels == {"network=resnet", "network=densenet"}
    run(tmp_path, config={"network": {"name": "resnet"}, "block": "single"})
    labels = {row.label for row in rows(load(tmp_path)[0])}
    assert labels == {
        "block=basic network=resnet",
        "block=single network=resnet",
        "block=bottleneck network=densenet",
    }


def test_what_is_switched_off_has_a_label(tmp_path):
    for seed, off in enumerate((False, True)):
        run(tmp_path, seed=seed, config={"init": {"name": "orthogonal", "zero_last": off}})
    assert [row.label for row in rows(load(tmp_path)[0])] == ["init.zero_last=false", "init.zero_last=true"]


def test_a_column_says_which_probe_measured_it(tmp_path):
    run(tmp_path, probes={"lesion": [{"least_bad": 3.0}]}, train=(9.0,), test=(9.0,))
    claim = {"claim": "a deleted unit costs little", "metric": "lesion.least_bad", "of": {"depth": 20}, "at_most": 5}
    (sheet,) = gather(tmp_path, {"seeds": [0], "runs": ["depth=20"], "claims": [claim]}).sheets
    assert table(sheet)[0][-1] == "least bad"
    assert about(sheet).endswith("over seeds; least bad: what probe lesion saw last")
