"""What commands print: data on stdout in the form asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from headrace.jsondata import visible


class Form(StrEnum):
    """The forms of `-o`."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"


def iso(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def show(data: Any, form: Form, columns: Sequence[str] = ()) -> None:
    """Print one object, or a list of them. `columns` are the table's."""
    if form is Form.JSON:
        _write(json.dumps(data, indent=2, ensure_ascii=False))
    elif form is Form.JSONL:
        for row in data if isinstance(data, list) else [data]:
            _write(json.dumps(row, ensure_ascii=False))
    elif form is Form.YAML:
        import yaml

        _write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())
    elif isinstance(data, list):
        _table(data, columns)
    else:
        for name, value in data.items():
            _write(f"{name + ':':<14} {_cell(value)}")


def _table(rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    names = list(columns) or list(rows[0] if rows else [])
    cells = [[name.upper() for name in names]]
    cells += [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(names))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        _write("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = visible(text[:400])
    return text if len(text) <= 100 else text[:99] + "…"


def _write(text: str) -> None:
    """Lines that come from us, of text that does not: within JSON and a table's cells every line
    end is written out, so that those that are left are ours."""
    sys.stdout.write("\n".join(map(visible, text.split("\n"))) + "\n")
    sys.stdout.flush()
