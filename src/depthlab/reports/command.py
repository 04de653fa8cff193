"""Tables, figures and verdicts from run directories alone: `python scripts/report.py outputs/NAME`, installed
`depthlab-report outputs/NAME`.

Without a folder: of every folder in outputs/ that holds runs. Writes FOLDER/report/.
"""

import argparse
from pathlib import Path
from typing import Any

from depthlab import config
from depthlab.errors import Mistake, told_in_one_line
from depthlab.experiment import check
from depthlab.reports import figure, profile
from depthlab.reports.page import page
from depthlab.reports.table import gather, markdown, stem, terminal
from depthlab.run.directory import Run

OUTPUTS = Path("outputs")


def write(folder: Path, experiment: dict[str, Any] | None) -> None:
    """Prints a folder's report and writes it to FOLDER/report/, as Markdown, as a page, and as figures."""
    report, out, figures = gather(folder, experiment), folder / "report", {}
    print(terminal(report), end="\n\n")
    out.mkdir(exist_ok=True)
    for sheet in report.sheets:
        usual = {"curves": figure.curves, "final": figure.final}
        shown = {"curves": sheet.drawn + sheet.running, "final": sheet.drawn}
        made = {n: draw(shown[n]) for n, draw in usual.items() if f"{n}-{sheet.data}" in sheet.captions}
        made |= {stem(spec): profile.drawn(spec, rows) for spec, rows in sheet.measured}
        for name, picture in made.items():
            figures[f"{name}-{sheet.data}"] = figure.save(picture, out / f"{name}-{sheet.data}")
    (out / "report.md").write_text(markdown(report))
    (out / "report.html").write_text(page(report, figures))
    print(f"written to {out}: report.md, report.html{''.join(f', {name}.svg, {name}.png' for name in figures)}\n")


def folders(given: list[Path]) -> list[Path]:
    """The folders to report on. Raises Mistake on one that holds no runs."""
    for folder in given or [OUTPUTS]:
        if not folder.is_dir():
            raise Mistake(f"{folder}: no such folder")
    found = given or [folder for folder in sorted(OUTPUTS.iterdir()) if folder.is_dir() and _holds_runs(folder)]
    for folder in found or [OUTPUTS]:
        if (folder / "config.yaml").exists():
            raise Mistake(f"{folder}: is one run; its folder is {folder.resolve().parent}")
        if not _holds_runs(folder):
            raise Mistake(f"{folder}: holds no runs")
    return found


def experiment_of(folder: Path) -> dict[str, Any] | None:
    """What the YAML file of the experiment that made a folder's runs holds under `experiment`, and its `name`; where
    they do not say which, that of the folder's name; None if there is no such file. Raises Mistake where it is not
    found, or none that could be run.
    """
    from omegaconf import OmegaConf

    made_by = [name for file in folder.glob("*/config.yaml") if (name := Run(file.parent).experiment())]
    name = made_by[0] if len({*made_by}) == 1 else folder.resolve().name
    if (text := config.texts("experiment").get(name)) is None:
        if name in made_by:
            raise Mistake(f"{folder}: runs of experiment={name}, which is not here; --config-dir FOLDER says where")
        return None
    found = OmegaConf.to_container(OmegaConf.create(text))
    experiment: Any = found.get("experiment") if isinstance(found, dict) else None
    check(name, experiment)
    return experiment | {"name": name}


def _holds_runs(folder: Path) -> bool:
    return any((path / "config.yaml").exists() for path in folder.iterdir())


def main() -> None:
    """The command: a person's mistake is told in one line, exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="outputs/NAME")
    parser.add_argument("--config-dir", type=Path, help="where an experiment of your own lies, as for train.py")
    given = parser.parse_args()
    with told_in_one_line():
        del config.FOLDERS[1:]
        if given.config_dir:
            config.add(given.config_dir)
        for folder, experiment in [(folder, experiment_of(folder)) for folder in folders(given.folders)]:
            write(folder, experiment)
