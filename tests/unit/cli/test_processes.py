"""How many processes `--processes` means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.cli.crew import MOST, cores, count_of
from headrace.errors import ConfigurationError


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", 6),
        ("250000 100000", 3),  # two and a half: the half is worth a process
        ("20000 100000", 1),
        ("900000 100000", 6),
        ("nonsense", 6),
        (None, 6),
    ],
)
def test_cores_are_those_of_the_affinity_and_the_quota(
    limit: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(limit + "\n")
    assert cores(file) == count


def test_auto_and_numbers() -> None:
    assert count_of("auto") == min(MOST, cores())
    assert (count_of("1"), count_of(str(MOST))) == (1, MOST)


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5", "٣", str(MOST + 1)])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither auto nor a number"):
        count_of(text)
