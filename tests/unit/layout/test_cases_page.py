"""The page of cases names tests that are there, and a test for every case."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "cases.md").read_text()
CASES = [f"C{n:02}" for n in range(1, 44)]

ROWS = {
    found[1]: cells
    for line in PAGE.splitlines()
    if (cells := [cell.strip() for cell in line.strip("|").split(" | ")])
    and (found := re.match(r"\*\*(C\d\d)\*\* \S", cells[0]))
}
NAMED = re.findall(r"`(tests/[^`]*)`", "\n".join(row for rows in ROWS.values() for row in rows))


@functools.cache
def functions_of(path: str) -> frozenset[str]:
    """The test functions of a file, also those of its classes."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_case_has_one_row_with_a_decision() -> None:
    assert list(ROWS) == CASES
    assert len(re.findall(r"^\| \*\*C\d\d\*\*", PAGE, re.MULTILINE)) == len(CASES)
    for case, cells in ROWS.items():
        assert len(cells) == 3, case
        assert len(cells[1]) > 40, case


def test_every_case_names_a_test() -> None:
    without = {case for case, cells in ROWS.items() if "::test_" not in cells[2]}
    assert not without


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_every_test_that_is_named_is_there(name: str) -> None:
    path, colons, function = name.partition("::")
    assert (ROOT / path).is_file()
    assert colons
    assert re.fullmatch(r"test_\w+", function)
    assert function in functions_of(path)


def test_links_lead_to_pages() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / "reference" / link).is_file(), link


def test_every_test_of_a_case_is_on_the_page() -> None:
    """A test with a case's number in its name that the page forgot."""
    written = {
        f"{path.relative_to(ROOT)}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in functions_of(str(path.relative_to(ROOT)))
        if re.match(r"test_c\d\d_", name)
    }
    assert written <= set(NAMED)
