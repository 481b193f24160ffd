"""The wire contract, version 1: the only package that spells a subject or a field of a message.

Documented for other languages in `docs/reference/wire.md`. A task is a JSON object published to

    headrace.q.<queue>.<priority>.<tag or _>.<task id>

and its outcome a JSON object stored under `headrace.state.<queue>.<task id>`.
"""

from headrace.wire.names import (
    API_LEVEL,
    DEAD_TTL,
    LEVEL_NAMES,
    LEVELS,
    MAX_DELAY,
    VERSION,
    Lane,
    QueueNames,
    Reason,
    check_schedule,
    check_worker_id,
    lane_and_id,
    lane_of_consumer,
    lanes,
    tick_id,
)
from headrace.wire.records import (
    DeadLetter,
    Record,
    TaskEvent,
    decode_dead,
    decode_event,
    decode_record,
    encode_dead,
    encode_event,
    encode_record,
    task_of_record,
)
from headrace.wire.tasks import (
    DEFAULT_RESULT_TTL,
    DEFAULT_TIMEOUT,
    MAX_SECONDS,
    MAX_TYPE,
    Envelope,
    Undecodable,
    decode_task,
    encode_task,
)

__all__ = [
    "API_LEVEL",
    "DEAD_TTL",
    "DEFAULT_RESULT_TTL",
    "DEFAULT_TIMEOUT",
    "LEVELS",
    "LEVEL_NAMES",
    "MAX_DELAY",
    "MAX_SECONDS",
    "MAX_TYPE",
    "VERSION",
    "DeadLetter",
    "Envelope",
    "Lane",
    "QueueNames",
    "Reason",
    "Record",
    "TaskEvent",
    "Undecodable",
    "check_schedule",
    "check_worker_id",
    "decode_dead",
    "decode_event",
    "decode_record",
    "decode_task",
    "encode_dead",
    "encode_event",
    "encode_record",
    "encode_task",
    "lane_and_id",
    "lane_of_consumer",
    "lanes",
    "task_of_record",
    "tick_id",
]
