"""The script that compares the fast paths' errors with the usual ones'."""

import json
import sys

import pytest

import fidelity

SHORT = ["width=4", "epochs=1", "data.subset=200", "recipe.warmup.share=0"]


def test_paths_differ_by_rounding_alone():
    usual, fast, half = (fidelity.curve("digits", 20, "identity", 0, path, SHORT)[-1] for path in fidelity.PATHS)
    assert fast["train_loss"] == pytest.approx(usual["train_loss"], rel=1e-4)
    assert fast["train_loss"] != half["train_loss"] == pytest.approx(usual["train_loss"], rel=0.1)


def test_what_stands_is_not_run_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "fidelity.jsonl"
    monkeypatch.setattr(fidelity, "SEEDS", (0, 1))
    for depth in ("14", "8"):
        argv = ["fidelity.py", "digits", "--depth", depth, "--output", str(path), *SHORT]
        monkeypatch.setattr(sys, "argv", argv)
        fidelity.main()
    first = path.read_text()
    deep, shallow = first.splitlines()[:12], first.splitlines()[12:]
    assert len(shallow) == 2 * 2 * 3
    assert all(json.loads(a)["curve"] != json.loads(b)["curve"] for a, b in zip(deep, shallow, strict=True))
    monkeypatch.setattr(fidelity, "curve", None)
    fidelity.main()
    assert path.read_text() == first
    errors = [json.loads(line)["curve"][-1]["test_error"] for line in shallow[:6:3]]
    assert f"| digits | 8 | none | test_error | {sum(errors) / 2:.2f} ± " in capsys.readouterr().out
