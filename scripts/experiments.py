"""Writes docs/experiments.md: each experiment as its YAML describes it, and what the reports in results/ found.

python scripts/experiments.py
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlab.config import about, from_yaml, runs, texts
from depthlab.reports.page import MARKS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "experiments.md"
HEAD = """# The experiments

Each is a few claims, most of them a paper's, a sweep that tests them, and a verdict on each from the runs alone. New
here? Begin with [degradation](#degradation-and-its-cure), go on with [what cures it](#what-cures-it), and look at the
[loss surfaces](#loss-surfaces-of-plain-and-residual-networks). The commands are for a CPU; without `data=` they run
at the papers' scale. `python scripts/report.py outputs/NAME` then makes the report: table, figures, verdicts.

✓ counts the claims that are reproduced, ✗ those that are contradicted, ? those that the runs leave undecided
([what each needs](numbers.md#verdicts)), here in the first report of each experiment. Claims that are not run need
more layers or other data than the report has. What came out, in words: [on two CPU
cores](../results/laptop/README.md), [on CIFAR-10](../results/cifar10/README.md).

This page is made by `python scripts/experiments.py`.
"""
COUNTED = ("reproduced", "contradicted", "undecided")
THEMES = {
    "Degradation, and its cure": "degradation constructed_solution layer_responses gradient_flow imagenet_depth",
    "Which shortcut, which order": "shortcut_types lambda activation_order deep_preact skip_no_norm",
    "What cures it": "cures looks_linear optimizers optimizers_equal_time stochastic_depth init_schemes",
    "Norms": "norm_types norm_learning_rate norm_batch_size norm_invariance exponential_lr smoothness",
    "Gradients at the start": "variance_growth gradient_explosion shattered_gradients gradient_correlation",
    "Inside the trained network": "loss_surfaces lesion_study",
    "Rounding": "precision_horizon precision precision_start",
    "Other networks": "densenet unet hourglass",
}
"""What the experiments are about, and their order on the page."""


@dataclass(frozen=True)
class Sheet:
    """What a report says of one data set."""

    data: str
    file: Path
    figures: list[str]
    """In Markdown, their paths relative to the page."""
    verdicts: list[tuple[str, str]]
    """A word, and the claim with its reason."""

    @property
    def counts(self) -> Counter[str]:
        """How many claims ended with each word."""
        return Counter(word for word, _ in self.verdicts)


def page() -> str:
    """The whole page."""
    found = {name: (about(text), from_yaml(text)["experiment"]) for name, text in texts("experiment").items()}
    reports = {name: sheets(name, next(iter(experiment["time"]))) for name, (_, experiment) in found.items()}
    marks = " | ".join(MARKS[word] for word in COUNTED)
    tables, sections = [], []
    for theme, names in THEMES.items():
        tables += ["", f"**{theme}**", "", f"| experiment | asks or says | {marks} |", "|---|---|---|---|---|"]
        for name in names.split():
            claim, experiment = found[name]
            counts = [str(reports[name][0].counts[word]) if reports[name] else "–" for word in COUNTED]
            title = experiment["title"]
            tables.append(f"| [{title}](#{anchor(title)}) | {claim} | {' | '.join(counts)} |")
            sections.append(section(name, claim, experiment, reports[name]))
    return "\n".join([HEAD.rstrip("\n"), *tables, *sections]) + "\n"


def section(name: str, claim: str, experiment: dict[str, Any], reports: list[Sheet]) -> str:
    """One experiment: claim, source, commands, picture, verdicts."""
    command = f"python train.py experiment={name} data="
    width = max(map(len, experiment["time"]))
    sentence = f"{claim[0].upper()}{claim[1:]}{'.' * (claim[-1] != '?')}"
    lines = ["", f"## {experiment['title']}", "", sentence, "", "```"]
    for data, time in experiment["time"].items():
        words = f"{data} data.root=FOLDER" if data == "imagenet" else f"{data:{width}}"
        lines.append(f"{command}{words}   # {runs(experiment, data)} runs, {time}")
    lines += ["```", "", f"Source: {experiment['source']}."]
    for sheet in reports[:1]:
        own = [f for f in sheet.figures if not re.search(r"/(curves|final)-\w+\.svg\)$", f)]
        lines += ["", *(own or sheet.figures[-1:])[:1]]
    lines += ["", *(verdicts(sheet) for sheet in reports)] if reports else ["", "Not run yet: no report is here."]
    return "\n".join(lines)


def verdicts(sheet: Sheet) -> str:
    """A report's verdicts, counted; the contradicted ones by name."""
    counted = ", ".join(f"{sheet.counts[word]} {word}" for word in MARKS if sheet.counts[word])
    lines = [f"- [{sheet.data}]({relative(sheet.file)}): {counted}."]
    lines += [f"  - {word}: {claim}" for word, claim in sheet.verdicts if word == "contradicted"]
    return "\n".join(lines)


def sheets(name: str, first: str) -> list[Sheet]:
    """What the reports in results/ say of an experiment, those on the data set `first` before the others."""
    found = []
    for file in (ROOT / "results").rglob("report.md"):
        if name not in (file.parent.name, file.parents[1].name):
            continue
        for data, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", file.read_text(), re.DOTALL | re.MULTILINE):
            figures = re.findall(r"^!\[(.*)\]\((.*)\)$", text, re.MULTILINE)
            figures = [f"![{caption}]({relative(file.parent / path)})" for caption, path in figures]
            length = file.parents[2].name  # results/cifar10/ITERATIONS/NAME/report
            label = f"{data}, {int(length):,} iterations" if length.isdigit() else data
            found.append(Sheet(label, file, figures, re.findall(r"^- \*\*(.*?)\*\*: (.*)$", text, re.MULTILINE)))
    return sorted(found, key=lambda sheet: (sheet.data != first, sheet.file))


def relative(path: Path) -> Path:
    """A path in the repository, as the page links to it."""
    return Path("..") / path.relative_to(ROOT)


def anchor(title: str) -> str:
    """The link to a heading, as it is made from its text."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page())
    print(f"written: {PAGE.relative_to(ROOT)}")
