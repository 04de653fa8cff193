"""`python scripts/report.py`: which folders, what it writes, what a mistake says."""

import runpy
import subprocess
import sys

import pytest
from made import run

from conftest import ROOT

SCRIPT = ROOT / "scripts" / "report.py"


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    """`report("outputs/x")` runs the script in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def test_every_folder_that_holds_runs(report, tmp_path):
    for name in ("one", "two"):
        run(tmp_path / "outputs" / name, 20)
    run(tmp_path / "outputs" / "two", 56, data="cifar10")
    (tmp_path / "outputs" / "empty").mkdir()
    code, out, err = report()
    assert (code, err) == (0, "")
    written = {path.name for path in (tmp_path / "outputs/two/report").iterdir()}
    kinds = {f"{kind}-{data}.{form}" for kind in ("curves", "final") for data in ("digits", "cifar10")
             for form in ("svg", "png")}  # fmt: skip
    assert written == {"report.md", "report.html"} | kinds
    assert "written to outputs/two/report: report.md, report.html, curves-cifar10.svg" in out
    assert not (tmp_path / "outputs/empty/report").exists()


def test_again_it_is_the_same(report, tmp_path):
    run(tmp_path / "runs", 20)
    found = []
    for _ in range(2):
        assert report("runs")[0] == 0
        found.append({path.name: path.read_bytes() for path in (tmp_path / "runs/report").iterdir()})
    assert found[0] == found[1]


def test_an_experiment_is_known_by_the_folders_name(report, tmp_path):
    for seed in range(3):
        run(tmp_path / "outputs/degradation", 20, seed=seed)
        run(tmp_path / "outputs/degradation", 56, seed=seed, train=(90.0, 60.0 + seed), test=(90.0, 60.0 + seed))
    code, out, _ = report("outputs/degradation/")
    assert code == 0
    assert "reproduced" in out
    assert "missing: depth=110 skip=none: no finished run" in out
    assert "experiment=degradation data=digits" in (tmp_path / "outputs/degradation/report/report.md").read_text()


EXPERIMENT = """# @package _global_
experiment: {seeds: [0], runs: [depth=20], claims: [{claim: c, metric: train_error, of: {depth: 20}, most: 50}]}
"""


def test_an_experiment_of_ones_own_that_is_not_found_is_said_and_the_good_report_stays(report, tmp_path):
    (tmp_path / "ideas/experiment").mkdir(parents=True)
    (tmp_path / "ideas/experiment/mine.yaml").write_text(EXPERIMENT)
    for folder in ("mine", "elsewhere"):  # folder=elsewhere was typed
        config = run(tmp_path / "outputs" / folder) / "config.yaml"
        config.write_text(config.read_text().replace("\n", "\n# experiment=mine\n", 1))
        code, out, _ = report(f"outputs/{folder}", "--config-dir", "ideas")
        assert (code, "at most 50, 1 seed, which decides nothing" in out) == (0, True)
        page = (tmp_path / "outputs" / folder / "report/report.md").read_text()
        assert "python train.py experiment=mine data=digits" in page
        line = (
            f"error: outputs/{folder}: runs of experiment=mine, which is not here; --config-dir FOLDER says where\n"
        )
        assert report(f"outputs/{folder}") == (2, "", line)
        assert (tmp_path / "outputs" / folder / "report/report.md").read_text() == page
    assert report("outputs/mine", "--config-dir", "idea") == (2, "", "error: --config-dir idea: no such folder\n")
    (tmp_path / "ideas/experiment/mine.yaml").write_text(EXPERIMENT.replace("most", "mots"))
    code, out, err = report("outputs/mine", "--config-dir", "ideas")
    assert (code, out) == (2, "")
    assert err.startswith("error: experiment=mine: claims[0].mots: no such key; did you mean most?")


def test_a_number_that_a_probe_does_not_measure_is_named_with_the_nearest(report, tmp_path):
    (tmp_path / "ideas/experiment").mkdir(parents=True)
    text = EXPERIMENT.replace("train_error", "dead.shar").replace(
        "claims:", "figures: [{title: t, y: dead.shre}], claims:"
    )
    (tmp_path / "ideas/experiment/mine.yaml").write_text(text)
    run(tmp_path / "outputs/mine", probes={"dead": [{"share": 0.1}, {"share": 0.2}, {"share": 0.3}]})
    code, out, _ = report("outputs/mine", "--config-dir", "ideas")
    assert code == 0
    assert "dead.shar was not measured, or is no number; did you mean share? (allowed: share)" in out
    assert "missing: figure of dead.shre; did you mean share? (allowed: share)" in out


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("outputs/oen", "error: outputs/oen: no such folder"),
        ("outputs", "error: outputs: holds no runs"),
        ("outputs/one/resnet20-none-digits-s0", "is one run; its folder is"),
    ],
)
def test_a_mistake_is_told_in_one_line(report, tmp_path, argument, line):
    run(tmp_path / "outputs" / "one")
    code, out, err = report(argument)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


def test_nothing_there_yet(report):
    assert report() == (2, "", "error: outputs: no such folder\n")


def test_the_reports_need_no_torch(tmp_path):
    run(tmp_path / "runs")
    code = f"import sys; sys.argv = ['report.py', {str(tmp_path / 'runs')!r}]\n"
    code += f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
