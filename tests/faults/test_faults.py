"""Every fault once, on real servers and workers, and every run that is kept in seeds.txt."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from tests.faults import ground
from tests.faults.plan import KINDS

FOLDER = Path(__file__).parents[2]
KEPT = [
    line.partition("#")[0].strip()
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if not line.startswith("#") and line.strip()
]
PROGRAM = [sys.executable, "-m", "tests.faults"]


@pytest.fixture(autouse=True, scope="module")
def namespaces() -> None:
    """What the runs need of this machine."""
    if problem := ground.why_not():
        pytest.skip(f"no namespaces of our own: {problem}")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("arguments", KEPT, ids=[f"run{n}" for n in range(1, len(KEPT) + 1)])
def test_nothing_is_lost(arguments: str, tmp_path: Path) -> None:
    given = shlex.split(arguments)
    asked = [given[at + 1] for at, word in enumerate(given) if word == "--fault"]
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [*PROGRAM, *given, "--minutes", "0.1", "--json", str(out), "--keep", str(tmp_path)],
        cwd=FOLDER, capture_output=True, text=True, timeout=220,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    known = json.loads(out.read_text())
    assert (known["violations"], known["lost"]) == ([], 0)
    assert known["faults"] == Counter(asked)
    assert known["tasks"] > 100
    assert sum(known["ended"].values()) == known["tasks"]


def test_the_kept_runs_have_every_fault() -> None:
    assert {kind.name for kind in KINDS} <= set(shlex.split(" ".join(KEPT)))


def test_a_driver_that_is_killed_leaves_nothing_behind() -> None:
    driver = subprocess.Popen(
        [*PROGRAM, "--servers", "1", "--workers", "1"], cwd=FOLDER, stdout=subprocess.DEVNULL
    )
    below: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while not any("nats-server" in process.name() for process in below):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process's children are only to be seen by looking
            below = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
    _, left = psutil.wait_procs(below, timeout=10)
    assert not left
