"""A folder's report as one HTML page that needs nothing else: figures, tables, verdicts, each row's config."""

import re
from html import escape
from typing import Any

import yaml

from depthlab.config import UNSCIENTIFIC, flat
from depthlab.reports.collect import Row
from depthlab.reports.figure import inline
from depthlab.reports.table import BESIDE, Report, Sheet, about, table

WIDTH = 72 * 6.9
"""Of the widest figures, in points."""
MARKS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?", "not run": "–"}
STYLE = """
:root { color-scheme: light; --line: #d9dce1; --soft: #5b6470; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: #1b1f24; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 1.8rem 0 .4rem; font-size: 1.05rem; }
p { margin: .4rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
pre { margin: .6rem 0; padding: .6rem .8rem; overflow-x: auto; background: #f5f6f8; border-radius: 6px;
      font: .85rem/1.45 ui-monospace, monospace; }
figure { margin: 1.2rem 0; }
.wide { overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 32rem; height: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #8b939e; font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; text-align: left; white-space: normal; min-width: 17rem; }
.verdicts, .missing { margin: .5rem 0; padding: 0; list-style: none; }
.verdicts li { display: grid; grid-template-columns: 8.5rem 1fr; gap: 0 .8rem; padding: .45rem 0;
               border-bottom: 1px solid var(--line); }
.verdicts small { grid-column: 2; color: var(--soft); }
.word { align-self: start; padding: 0 .5rem; border-radius: 4px; font-size: .88rem; font-weight: 600; }
.reproduced { background: #d8f0e3; color: #00513a; }
.contradicted { background: #fde0d2; color: #8a2b00; }
.undecided { background: #fdf0c8; color: #6b4e00; }
.not-run { background: #eceef1; color: #454d57; }
.missing li { padding: .15rem 0; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); }
summary { padding: .35rem 0; cursor: pointer; overflow-wrap: anywhere; font-size: .9rem; }
@media (max-width: 34rem) { .verdicts li { grid-template-columns: 1fr; } .verdicts small { grid-column: 1; }
                            .word { justify-self: start; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } figure, tr, li { break-inside: avoid; }
               figure svg { min-width: 0; } .word { border: 1px solid currentColor; } .wide { overflow: visible; } }
"""


def page(report: Report, figures: dict[str, str]) -> str:
    """The page; `figures`: the SVG text of each figure that a sheet has a caption for."""
    name = escape(report.title)
    body = [f"<h1>{name}</h1>", *([f'<p class="soft">{escape(report.source)}</p>'] if report.source else [])]
    for sheet in report.sheets:
        body += _sheet(report, sheet, figures)
    body += [] if report.sheets else ["<p>No finished run yet.</p>"]
    body += ["<h2>Unfinished and broken runs</h2>", _list(report.missing)] if report.missing else []
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    top = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>'
    return "\n".join([top, *body, "</body></html>\n"])


def _sheet(report: Report, sheet: Sheet, figures: dict[str, str]) -> list[str]:
    parts = [f"<h2>{escape(sheet.data)}</h2>", f"<pre>{escape(sheet.commands)}</pre>"]
    if sheet.verdicts:
        parts += ["<h3>Verdicts</h3>", '<ul class="verdicts">']
        for verdict in sheet.verdicts:
            kind, word = verdict.word.replace(" ", "-"), f"{MARKS.get(verdict.word, '')} {verdict.word}"
            parts.append(f'<li><span class="word {escape(kind)}">{escape(word)}</span> {escape(verdict.claim)}')
            parts.append(f"<small>{escape(verdict.because)}</small></li>")
        parts.append("</ul>")
    for number, (name, caption) in enumerate(sheet.captions.items()):
        svg = inline(figures[name], f"f{number}s{report.sheets.index(sheet)}") if name in figures else ""
        share = min(1.0, float(width[1]) / WIDTH) if (width := re.search(r'width="([\d.]+)pt"', svg)) else 1.0
        parts.append(f'<figure><div class="wide" style="max-width: {share:.0%}">{svg}</div>')
        parts.append(f"<figcaption>{escape(caption)}</figcaption></figure>")
    if sheet.beside:
        parts += ["<h3>Side by side</h3>", f'<p class="soft">{escape(BESIDE)}.</p>', *_table(sheet.beside)]
    parts += ["<h3>Numbers</h3>", f'<p class="soft">{escape(about(sheet).capitalize())}.</p>', *_table(table(sheet))]
    parts += ["<h3>Missing</h3>", _list(sheet.missing)] if sheet.missing else []
    parts += [f'<p class="soft">Made with {escape(sheet.versions)}.</p>', "<h3>Runs</h3>"]
    return parts + _runs(sheet.rows)


def _table(cells: list[list[str]]) -> list[str]:
    heading, *lines = [[escape(cell) for cell in line] for line in cells]
    parts = [f'<div class="wide"><table><tr><th>{"<th>".join(heading)}</tr>']
    return [*parts, *(f"<tr><td>{'<td>'.join(line)}</tr>" for line in lines), "</table></div>"]


def _runs(rows: list[Row]) -> list[str]:
    """What all runs of a sheet share, once; of each row what is its own, and its runs, one a seed."""
    configs = [_shown(row.results[0].config) for row in rows]
    first = configs[0] if configs else {}
    shared = {key: value for key, value in first.items() if all(key in c and c[key] == value for c in configs)}
    parts = [_details("All", shared)] if rows else []
    for row, config in zip(rows, configs, strict=True):
        own = {key: value for key, value in config.items() if key not in shared}
        parts.append(_details(row.label, own | {"runs": [result.path.name for result in row.results]}))
    return parts


def _shown(config: dict[str, Any]) -> dict[str, Any]:
    """All but the seed, and no one's folders."""
    hidden = UNSCIENTIFIC | {"seed", "data.root"}
    return {key: value for key, value in flat(config).items() if not {key, key.split(".")[0]} & hidden}


def _details(title: str, values: dict[str, Any]) -> str:
    text = escape(yaml.safe_dump(values, sort_keys=False))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"


def _list(lines: list[str]) -> str:
    return '<ul class="missing">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
