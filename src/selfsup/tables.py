"""Results as text for people."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from selfsup.eval.panel import panels_of
from selfsup.eval.result import labels_seen
from selfsup.progress import clock

if TYPE_CHECKING:
    from selfsup.search.hits import Hit

INDENT = " " * 5
# What a run has cost, and how that is written.
COST: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "seconds": ("time", lambda row: clock(row["mean"])),
    "samples": ("samples", lambda row: f"{row['mean']:,.0f}"),
    "kWh": ("energy", lambda row: f"{1000 * row['mean']:,.2f} Wh{' est.' if 'estimate' in row['how'] else ''}"),
}
LABELS = 12  # of an audit that are printed


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "\n".join(json.dumps(row) for row in rows)


def results_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table of results, and below it the verdicts."""
    table = _results_table([row for row in rows if row["task"] != "verdict"])
    return table + "".join(f"\n{row['text']}" for row in rows if row["task"] == "verdict")


def _results_table(rows: list[dict[str, Any]]) -> str:
    """A row for each task, metric and amount of labels, a column for each representation."""
    names = list(dict.fromkeys(row["representation"] for row in rows))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("task", "labels", "metric", *names, "chance", "data"):
        table.add_column(heading, justify="right" if heading in (*names, "labels", "chance") else "left", no_wrap=True)
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], labels_seen(row), row["metric"]), {})[row["representation"]] = row
    for (task, labels, metric), group in groups.items():
        first = next(iter(group.values()))
        cells = [_number(group[name], metric) if name in group else "" for name in names]
        chance = _number({"mean": first["chance"]}, metric)
        table.add_row(task, labels, metric, *cells, chance, f"{first['data']} ({first['split']})")
    return _printed(table) + "\n"


def _printed(table: Table, width: int | None = None) -> str:
    """A table at most so wide; as wide as the terminal if not given."""
    console = Console(width=width or (None if sys.stdout.isatty() else 160))
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def comparison_text(rows: Sequence[dict[str, Any]]) -> str:
    """A table of several runs, for each label set a row a run and its baselines; below it the verdicts."""
    panels = panels_of(rows)
    columns = list(dict.fromkeys(column for panel in panels for cells in panel.cells.values() for column in cells))
    cost: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["task"] == "cost":
            cost.setdefault(row["run"], {})[row["metric"]] = row
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(("", *columns, *(heading for heading, _ in COST.values()))):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for number, panel in enumerate(panels):
        if number:
            table.add_row()
        table.add_row(panel.title, style="bold")
        for who, cells in panel.cells.items():
            spent = cost.get(next(iter(cells.values()))["run"], {})
            scores = (_score(cells[column]) if column in cells else "-" for column in columns)
            table.add_row(f"  {who}", *scores, *(shown(spent[name]) if name in spent else "-"
                                                 for name, (_, shown) in COST.items()))  # fmt: skip
        chance = _number({"mean": panel.chance}, "accuracy")
        table.add_row("  chance", *("-" if column == "rank" else chance for column in columns), *("-" for _ in COST))
    verdicts = "".join(f"\n{row['text']}" for row in rows if row["task"] == "verdict")
    return f"{_printed(table, 1000)}\n{verdicts}"  # never cut: half a number would be another one


def _score(row: dict[str, Any]) -> str:
    """A score; of a layer that was chosen, which it is."""
    layer = ""
    if row["task"] == "layer":
        layer = " (last)" if row["layer"] == "last" else f" ({row['layer']} of {len(row['held_out']) - 1})"
    return _number(row, row["metric"]) + layer


def _number(row: dict[str, Any], metric: str) -> str:
    """Accuracies in percent, with their deviation over draws of labels; everything else with four figures."""
    if "accuracy" not in metric:
        return f"{row['mean']:.4g}"
    deviation = f" ± {100 * row['sd_labels']:.1f}" if "sd_labels" in row else ""
    return f"{100 * row['mean']:.1f}{deviation} %"


def hits_text(hits: Sequence[Hit]) -> str:
    """What a search found, best first, with the passages that fit."""
    lines = []
    for number, hit in enumerate(hits, 1):
        place = "" if hit.source is None or hit.source.endswith(hit.id) else f"  {hit.source}"
        changed = {"changed": "  (changed since it was indexed)", "gone": "  (is not there any more)"}
        more = "".join(f"  {name}={value}" for name, value in hit.about.items() if value is not None)
        lines.append(f"{number:>3}  {hit.score:.4f}  {hit.id}{place}{changed.get(hit.state or '', '')}{more}")
        if hit.text is not None:
            lines += textwrap.wrap(
                hit.text, 110, initial_indent=INDENT, subsequent_indent=INDENT, max_lines=4, placeholder=" ..."
            )
    return "\n".join(lines) or "nothing found"


def chance_table(rows: Sequence[tuple[str, float]]) -> str:
    """Texts, each behind its probability in percent."""
    return "\n".join(f"{100 * chance:>6.1f} %  {text}" for text, chance in rows)


def audit_text(found: dict[str, Any]) -> str:
    """What an audit found: the questions, the labels where there are some, and the verdict."""
    asked = [
        (one["name"], _share(one["right"], one["half"]), _share(one["learned"]), f"{100 * one['guessing']:.3g} %")
        for one in found["questions"]
    ]
    loss = ("loss", f"{found['loss']:.4g}", f"{found['learned']:.4g}", f"{found['trivial']:.4g}")
    parts = [_table(("", "held-out", "trained on", "guessing"), [*asked, loss])]
    if found["confusions"]:
        parts.append("\n".join(f"{100 * one['share']:>6.1f} %  {_taken(one)}" for one in found["confusions"][:3]))
    if found["labels"]:
        lines = [
            (
                one["label"], f"{one['rows']:,}", _share(one["all_right"]), f"{one['difficulty']:.2f}",
                _share(one["in_doubt"]), "; ".join(f"{_taken(c)} {100 * c['share']:.0f} %" for c in one["confusions"]),
            )
            for one in found["labels"][:LABELS]
        ]  # fmt: skip
        parts.append(_table(("label", "rows", "all right", "difficulty", "in doubt", ""), lines))
    return "\n\n".join([*parts, *filter(None, (found["text"], found["warning"]))])


def _share(share: float | None, half: float | None = None) -> str:
    interval = "" if half is None else f" ± {100 * half:.1f}"
    return "" if share is None else f"{100 * share:.1f}{interval} %"


def _taken(wrong: dict[str, Any]) -> str:
    """A wrong answer in words."""
    return f"{wrong['asked']} taken for {wrong['answered']}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of equal width, the first and the last to the left."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        left = number in (0, 5)
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return _printed(table)
