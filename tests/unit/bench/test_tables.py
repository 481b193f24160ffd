"""The tables of the pages are those of the figures that are committed."""

from __future__ import annotations

import re

from benchmarks import tables


def test_the_pages_have_the_figures_that_are_committed() -> None:
    pages = [page.read_text() for page in tables.PAGES]
    names = [name for page in pages for name in re.findall(r"<!-- table: (\w+) -->", page)]
    assert sorted(names) == sorted(tables.TABLES)
    for page in pages:
        assert tables.filled(page) == page


def test_what_is_between_the_marks_is_replaced() -> None:
    for page in tables.PAGES:
        text = page.read_text()
        spoilt = re.sub(r"(<!-- table: \w+ -->\n)", r"\1| old |\n", text)
        assert spoilt != text
        assert tables.filled(spoilt) == text
