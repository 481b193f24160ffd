"""Guards of the repository's layout; see docs/adr/0003-folder-named-operator.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_operator_is_a_folder_and_not_a_package() -> None:
    """An __init__.py there would hide the standard library's operator from everything."""
    assert (ROOT / "operator" / "headrace_operator" / "__init__.py").exists()
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_test_folder_or_module_is_called_operator() -> None:
    assert not list((ROOT / "tests").rglob("operator"))
    assert not list((ROOT / "tests").rglob("operator.py"))


def test_no_top_level_module_shadows_the_standard_library() -> None:
    """A folder first on sys.path would then hide the library's own module."""
    names = {
        path.stem
        for folder in ("operator", "worker")
        for path in (ROOT / folder).glob("*")
        if path.suffix == ".py" or path.is_dir()
    }
    assert not names & sys.stdlib_module_names


def test_import_operator_is_the_standard_library_from_the_root() -> None:
    code = "import operator; print(operator.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "lib" in found.stdout
    assert str(ROOT / "operator") not in found.stdout


def test_importing_headrace_loads_no_operator_and_no_heavy_module() -> None:
    code = "import headrace, sys; print(sorted(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for heavy in ("'nats'", "'typer'", "'rich'", "'kopf'", "'kubernetes'", "'headrace_operator'"):
        assert heavy not in found.stdout


def test_every_public_name_can_be_imported() -> None:
    import headrace

    for name in headrace.__all__:
        assert getattr(headrace, name) is not None
    assert sorted(headrace.__all__) == sorted(headrace._HOME_OF)


def test_files_stay_small() -> None:
    """Four hundred lines is the aim; far beyond that a module has more than one job."""
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("worker", "operator", "tests", "benchmarks", "examples", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 540
    }
    assert not long
