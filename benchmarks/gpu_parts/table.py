"""A report as tables."""

from __future__ import annotations

from typing import Any

BYTES = ("peak", "estimated_peak", "measured_activations", "estimated_activations")


def as_text(report: dict[str, Any]) -> str:
    """One table a part, in Markdown."""
    device = report["device"]
    lines = [f"{device['name']}, torch {device['torch']}, transformers {device['transformers']}, {device['date']}"]
    for name, part in report["parts"].items():
        lines += ["", f"## {name}" + (f" ({part['seconds']} s)" if "seconds" in part else "")]
        lines += [f"{word}: {part[word]}" for word in ("skipped", "error") if word in part]
        lines += part.get("notes", [])
        lines += table(part["rows"])
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Columns in the order in which they first appear."""
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        "",
        "| " + " | ".join(f"{c} (GiB)" if c in BYTES else c for c in columns) + " |",
        "|" + "---|" * len(columns),
    ]
    return lines + ["| " + " | ".join(cell(c, row.get(c)) for c in columns) + " |" for row in rows]


def cell(column: str, value: Any) -> str:
    """
    >>> cell("peak", 3 * 2**30), cell("rows", 64), cell("seconds", 1.23456), cell("same", True), cell("peak", None)
    ('3.00', '64', '1.235', 'yes', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if column in BYTES:
        return f"{value / 2**30:.2f}"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
