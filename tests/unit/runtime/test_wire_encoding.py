"""What the wire's encoders put together by hand is the JSON of the fields that are set."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import wire
from headrace.errors import InvalidData
from headrace.task import ID_PATTERN, NAME_PATTERN, TaskPriority, TaskStatus

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda each: st.lists(each) | st.dictionaries(st.text("abcé\"\\"), each),
    max_leaves=5,
)  # fmt: skip
IDS = st.from_regex(ID_PATTERN, fullmatch=True)
NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
TIMES = st.floats(0.001, 1e11)
COUNTS = st.integers(0, 2**40)
TYPES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
LANES = st.builds(wire.Lane, st.sampled_from(TaskPriority), st.none() | NAMES)
TASKS = st.builds(
    wire.Envelope, IDS, LANES, TYPES, JSON, st.none() | TIMES, st.none() | COUNTS, COUNTS, TIMES,
    st.dictionaries(TEXT, JSON, max_size=2), TIMES | st.just(wire.DEFAULT_RESULT_TTL),
    st.none() | NAMES, COUNTS, st.none() | TEXT.filter(bool), st.none() | TIMES,
    st.none() | TIMES, st.none() | TEXT.filter(bool),
)  # fmt: skip
RECORDS = st.builds(
    wire.Record, IDS, st.sampled_from(TaskStatus), TEXT, st.integers(1, 99), COUNTS,
    st.none() | NAMES, JSON, st.none() | TEXT.filter(bool), TEXT, TEXT, TEXT, st.none() | TIMES,
    st.none() | TIMES, COUNTS,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(TASKS)
def test_a_task_comes_back(task: wire.Envelope) -> None:
    body = wire.encode_task(task)
    assert wire.decode_task(task.lane, task.id, body) == task
    # As compact as the encoder of the data, and nothing is said that is the default.
    assert body == json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()


def test_a_bare_task_says_no_more_than_it_must() -> None:
    task = wire.Envelope("a", wire.Lane(TaskPriority.LOW), "t", 1, created_at=2.5)
    assert wire.encode_task(task) == b'{"v":1,"id":"a","type":"t","data":1,"created_at":2.5}'


@settings(max_examples=60, deadline=None)
@given(RECORDS, TASKS)
def test_a_record_comes_back_with_its_task(record: wire.Record, task: wire.Envelope) -> None:
    task = replace(task, id=record.id)
    stored, reply = wire.encode_record(record, task.lane, wire.encode_task(task))
    assert wire.decode_record(reply) == record
    assert wire.decode_record(stored) == replace(record, task=task)
    alone, same = wire.encode_record(record, None, None)
    assert alone == same
    assert wire.decode_record(alone) == record


def test_what_is_not_json_is_named() -> None:
    lane = wire.Lane(TaskPriority.LOW)
    with pytest.raises(InvalidData, match=r"data\.x"):
        wire.encode_task(wire.Envelope("a", lane, "t", {"x": {1}}))
    record = wire.Record("a", TaskStatus.COMPLETED, result={"x": [float("nan")]})
    with pytest.raises(InvalidData) as caught:
        wire.encode_record(record, lane, b"{}")
    assert caught.value.path == "result.x[0]"
