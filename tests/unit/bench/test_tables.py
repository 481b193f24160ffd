"""The tables of docs/scale.md are those of the figures that are committed."""

from __future__ import annotations

import re

from benchmarks import tables


def test_the_page_has_the_figures_that_are_committed() -> None:
    page = tables.PAGE.read_text()
    assert set(re.findall(r"<!-- table: (\w+) -->", page)) == set(tables.TABLES)
    assert tables.filled(page) == page


def test_what_is_between_the_marks_is_replaced() -> None:
    page = tables.PAGE.read_text()
    spoilt = re.sub(r"(<!-- table: soak -->\n)", r"\1| old |\n", page)
    assert spoilt != page
    assert tables.filled(spoilt) == page
