"""Values that refuse to be misread, policies that refuse what cannot work; the layer."""

from __future__ import annotations

import ast
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.scaling.builders import depth, look, policy, rates, steady

import headrace.scaling as scaling
from headrace.errors import ConfigurationError
from headrace.scaling import (
    UNKNOWN,
    Depth,
    Fleet,
    History,
    Law,
    LevelRates,
    Policy,
    Reason,
    Snapshot,
    Step,
    WaitTargets,
    decide,
)
from headrace.task import TaskPriority

FOLDER = Path(scaling.__file__).parent


def test_unknown_is_no_number_and_no_truth() -> None:
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(UNKNOWN)
    with pytest.raises(TypeError):
        UNKNOWN + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        UNKNOWN < 1  # type: ignore[operator]  # noqa: B015
    assert UNKNOWN != 0
    assert repr(UNKNOWN) == "UNKNOWN"


@pytest.mark.parametrize(
    "kind",
    [each for each in vars(scaling).values() if isinstance(each, type) and is_dataclass(each)],
)
def test_every_value_is_frozen_and_has_slots(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    assert set(kind.__slots__) == {each.name for each in fields(kind)}


def test_a_frozen_value_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Policy().slots = 5  # type: ignore[misc]


def test_the_defaults_are_those_of_a_manifest() -> None:
    rules = Policy()
    assert (rules.min_workers, rules.max_workers, rules.slots) == (0, 50, 4)
    assert (rules.scale_up_threshold, rules.scale_down_threshold) == (10, 2)
    assert (rules.window, rules.drain_timeout) == (60, 600)
    assert (rules.law, rules.pin, rules.step) == (Law.THRESHOLDS, None, None)


def test_a_pool_in_a_process_has_the_defaults_of_coordinator_config() -> None:
    rules = Policy.in_process()
    assert (rules.min_workers, rules.max_workers, rules.slots) == (1, 10, 1)
    assert (rules.scale_up_threshold, rules.scale_down_threshold) == (10, 2)
    assert (rules.period, rules.window, rules.startup) == (10.0, 30.0, 0.0)
    assert Policy.in_process(law=Law.ABSOLUTE).window == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"min_workers": -1},
        {"min_workers": 5, "max_workers": 4},
        {"min_workers": 0, "max_workers": 0},
        {"slots": 0},
        {"scale_up_threshold": 0},
        {"scale_up_threshold": 2, "scale_down_threshold": 3},
        {"scale_up_threshold": float("nan")},
        {"scale_down_threshold": -1},
        {"window": -1},
        {"window": 3601},
        {"window": float("nan")},
        {"period": 0},
        {"pin": -1},
        {"utilisation": 0},
        {"utilisation": 1.1},
        {"startup": float("inf")},
        {"min_samples": 0},
        {"drain_timeout": -1},
        {"serve_untagged": False},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_a_policy_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="scaling policy: "):
        Policy(**changes)


def test_targets_and_steps_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not above a lower one's"):
        WaitTargets(critical=10, normal=5)
    with pytest.raises(ConfigurationError, match="greater than 0"):
        WaitTargets(low=0)
    with pytest.raises(ConfigurationError, match="max_up"):
        Step(max_up=0)
    with pytest.raises(ConfigurationError, match="period"):
        Step(period=0)


def test_figures_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="-1 tasks is no depth"):
        depth(-1)
    with pytest.raises(ConfigurationError, match="share"):
        depth(1, share=0.0)
    with pytest.raises(ConfigurationError, match="7 is no priority level"):
        Depth(7, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no time and no rate"):
        rates(float("nan"))
    with pytest.raises(ConfigurationError, match="target of -1"):
        look(-1)
    with pytest.raises(ConfigurationError, match="age"):
        look(1, age=-1)


def test_a_level_given_as_its_number_counts_like_the_level() -> None:
    number = Depth(20, 95, 0)  # type: ignore[arg-type]
    assert number.name == "critical"
    assert decide(policy(), look(0, number), steady()).desired == 10


def test_a_depth_cannot_be_forgotten() -> None:
    with pytest.raises(TypeError, match="lanes"):
        Snapshot(now=0.0, target=3)  # type: ignore[call-arg]
    empty, nothing = look(3), look(3, lanes=UNKNOWN)
    assert decide(policy(), empty, steady()).desired == 0  # a queue without lanes is empty
    assert decide(policy(), nothing, steady()).desired == 3


def test_only_the_tags_of_the_pool_are_its_load() -> None:
    lanes = (depth(50), depth(200, tag="gpu"), depth(900, tag="arm"))
    gpu = policy(tags=("gpu",), serve_untagged=False)
    assert decide(gpu, look(0, *lanes), steady()).inputs.tasks == 200
    assert decide(replace(gpu, serve_untagged=True), look(0, *lanes), steady()).inputs.tasks == 250
    assert decide(policy(), look(0, *lanes), steady()).inputs.tasks == 50


def test_an_unknown_tag_of_others_does_not_hold_the_pool() -> None:
    lanes = (depth(0), depth(UNKNOWN, UNKNOWN, tag="gpu"))
    assert decide(policy(), look(10, *lanes), steady()).desired == 0
    assert decide(policy(tags=("gpu",)), look(10, *lanes), steady()).desired == 10


def test_a_missing_part_holds_the_pool_and_is_named() -> None:
    decision = decide(policy(), look(10, depth(0), missing=("2 streams",)), steady())
    assert (decision.desired, decision.reason) == (10, Reason.UNKNOWN)
    assert "unknown: 2 streams" in decision.message


def test_pools_that_share_tasks_size_for_their_share_of_them() -> None:
    third = depth(300, 30, share=1 / 3)
    decision = decide(policy(), look(0, third), steady())
    assert (decision.desired, decision.inputs.tasks) == (11, 110)


def test_figures_are_fresh_for_three_periods() -> None:
    at = {age: decide(policy(), look(10, depth(0), age=age), steady()).desired for age in (3, 3.1)}
    assert at == {3: 0, 3.1: 10}
    slow = policy(period=10.0)
    assert decide(slow, look(10, depth(0), age=30), steady()).desired == 0


def test_what_a_decision_was_made_from_can_be_read_back() -> None:
    seen = look(10, depth(12, 17), fleet=Fleet(ready=8, failing=1, draining=2))
    inputs = decide(policy(), seen, steady(90)).inputs
    assert (inputs.waiting, inputs.running, inputs.tasks) == (12, 17, 29)
    assert (inputs.ready, inputs.failing, inputs.draining) == (8, 1, 2)
    assert (inputs.target, inputs.raw, inputs.wanted, inputs.law) == (10, 10, 10, "WithinBand")
    assert inputs.complete
    assert inputs.complete_since == seen.now - 90


def test_the_empty_history_knows_nothing() -> None:
    assert History().highest_wish(after=float("-inf")) == 0
    assert History().last_wish_of(1) is None
    assert History().moved(0.0, up=True) == ()
    assert History().complete_from(5.0, max_age=3.0) == 5.0


def test_rates_default_to_unknown() -> None:
    assert LevelRates(TaskPriority.LOW).run_seconds is UNKNOWN


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_core_is_pure(path: Path) -> None:
    """Only stdlib, `headrace.task`, `headrace.errors`; nothing that has a clock, chance or I/O."""
    impure = {"asyncio", "datetime", "io", "logging", "os", "random", "secrets", "socket",
              "subprocess", "threading", "time", "pathlib"}  # fmt: skip
    for name in _imports(path):
        top = name.partition(".")[0]
        if top == "headrace":
            allowed = ("headrace.task", "headrace.errors")
            assert name in allowed or name.startswith("headrace.scaling."), name
        else:
            assert top in sys.stdlib_module_names, name
            assert top not in impure, name
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def test_all_that_is_public_is_exported_and_sorted() -> None:
    assert list(scaling.__all__) == sorted(set(scaling.__all__), key=lambda n: (n.upper() != n, n))
    assert all(hasattr(scaling, name) for name in scaling.__all__)
