"""Every error that Headrace raises.

    HeadraceError
    ├── ConfigurationError (ValueError)      what you wrote cannot work; nothing was sent
    │   ├── InvalidName                      a queue, tag, task id or type that cannot stand
    │   ├── InvalidData                      a value that JSON or the handler does not take
    │   ├── InvalidTime                      `delay=` or `at=` that is naive, negative or absurd
    │   ├── InvalidManifest                  a field of a WorkerPool manifest
    │   ├── AppNotFound                      `module:attribute` that cannot be imported
    │   └── InvalidSchedule                  a cron expression, zone or interval that cannot be
    ├── BrokerError (ConnectionError)        the broker did not do what was asked
    │   ├── BrokerUnavailable                not reachable, or no answer in time; may be tried again
    │   ├── AccessDenied                     wrong credentials, or a right is missing
    │   ├── BrokerUnsupported                no JetStream, or a server older than NATS 2.14
    │   └── BrokerUntrusted                  TLS failed: a certificate, or none offered
    ├── SubmitRefused                        the task was not stored; nothing is lost but this call
    │   ├── QueueFull
    │   ├── PayloadTooLarge
    │   └── BlobStoreFull                    the blob was not stored
    ├── NotRunning (RuntimeError)            a worker, pool or coordinator that is not started
    ├── NoHandler (ValueError)               nobody here runs tasks of this type
    ├── TaskNotFound (ValueError)            unknown id, or its record has expired
    ├── WaitTimeout (TimeoutError)           your own `timeout=` has passed; the task goes on
    ├── StreamInterrupted                    chunks of a stream are missing
    ├── BlobNotFound                         missing, deleted or expired
    ├── BlobDamaged                          what is stored is not what was put
    └── TaskError                            how a task ended
        ├── TaskFailed
        ├── TaskTimeout (TimeoutError)
        └── TaskCancelled

Each class has a stable `code`, each instance a `hint` that says what to do next; both are in
`str(error)`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HeadraceError(Exception):
    """Base of all errors of Headrace.

    `code` is stable and can be looked up; `hint` says what to do next.
    """

    code: ClassVar[str] = "HR000"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        return f"{text}. {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take typed keywords, so the default (calling them with self.args) fails.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(
    cls: type[HeadraceError], args: tuple[Any, ...], state: dict[str, Any]
) -> HeadraceError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(HeadraceError, ValueError):
    """What was configured or passed cannot work; nothing was sent."""

    code = "HR100"


class InvalidName(ConfigurationError):
    """A name that could not stand in a subject.

    `kind` is what was named (queue, tag, task id, task type), `name` what was given.
    """

    code = "HR101"

    def __init__(self, kind: str, name: object, pattern: str) -> None:
        self.kind, self.name, self.pattern = kind, name, pattern
        super().__init__(f"{name!r} is not a {kind}", hint=f"It must match {pattern}")


class InvalidData(ConfigurationError):
    """A value that JSON does not have, or that does not fit the handler's annotation.

    `path` is where it is (`data.pages[3].size`), `problem` what is wrong there.
    """

    code = "HR102"

    def __init__(self, path: str, problem: str, *, hint: str = "") -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}", hint=hint)


class InvalidTime(ConfigurationError):
    """A `delay=` or `at=` that is naive, negative or absurd."""

    code = "HR103"


class InvalidManifest(ConfigurationError):
    """A manifest that is not a WorkerPool. `path` is the field, such as `spec.maxWorkers`."""

    code = "HR104"

    def __init__(self, path: str, problem: str, *, hint: str = "") -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}", hint=hint)


class AppNotFound(ConfigurationError):
    """`module:attribute` that cannot be imported or is no coordinator with handlers."""

    code = "HR105"


class InvalidSchedule(ConfigurationError):
    """A schedule that cannot be: `field` is what is wrong with it (`cron`, `zone`, `every`)."""

    code = "HR106"

    def __init__(self, field: str, problem: str, *, hint: str = "") -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}", hint=hint)


class BrokerError(HeadraceError, ConnectionError):
    """The broker did not do what was asked."""

    code = "HR200"


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached or did not answer in time. May be tried again.

    A submit that raises this may have been stored all the same: repeat it with the same task id or
    the same `unique=` key and it is stored once.
    """

    code = "HR201"


class AccessDenied(BrokerError):
    """Wrong credentials, or the credentials lack a right: then `right` is `publish` or `subscribe`
    and `subject` what it is missing for; else both are empty."""

    code = "HR202"

    def __init__(self, message: str, *, hint: str = "", right: str = "", subject: str = "") -> None:
        self.right, self.subject = right, subject
        super().__init__(message, hint=hint)


class BrokerUnsupported(BrokerError):
    """The server lacks something that Headrace needs; `feature` and `version` name it."""

    code = "HR203"

    def __init__(self, feature: str, version: str, *, hint: str = "") -> None:
        self.feature, self.version = feature, version
        super().__init__(f"the NATS server ({version}) lacks {feature}", hint=hint)


class BrokerUntrusted(BrokerError):
    """TLS with the server failed; `problem` says how. Its certificate is not trusted, has expired
    or is for another name, it offers no TLS where TLS was asked for, or it refused our own
    certificate. Nothing was sent, no credentials either."""

    code = "HR204"

    def __init__(self, server: str, problem: str, *, hint: str = "") -> None:
        self.server, self.problem = server, problem
        super().__init__(f"no TLS with the NATS server at {server}: {problem}", hint=hint)


class SubmitRefused(HeadraceError):
    """The task was not stored. `stored` lists the tasks of the same `submit_many` that were."""

    code = "HR300"
    stored: list[Any] = []  # noqa: RUF012  # a default, replaced and never changed


class QueueFull(SubmitRefused):
    """The queue holds `limit` tasks, which is its limit."""

    code = "HR301"

    def __init__(self, queue: str, limit: int | None = None) -> None:
        self.queue, self.limit = queue, limit
        size = f"its limit of {limit} tasks" if limit is not None else "its limit of tasks"
        super().__init__(
            f"queue {queue!r} holds {size}",
            hint="Submit again later, add workers, or raise the queue's max_size",
        )


class PayloadTooLarge(SubmitRefused):
    """A message of `size` bytes, headers included, where the server takes `limit`."""

    code = "HR302"

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what, self.size, self.limit = what, size, limit
        super().__init__(
            f"{what} of {size:,} bytes is over the server's limit of {limit:,} bytes",
            hint="Store the data with put_blob and pass on what it gives (docs/large-data.md), or "
            "raise the server's max_payload",
        )


class BlobStoreFull(SubmitRefused):
    """The blobs of queue `queue` fill their store of `limit` bytes; this one was not stored."""

    code = "HR303"

    def __init__(self, queue: str, limit: int, *, hint: str = "") -> None:
        self.queue, self.limit = queue, limit
        super().__init__(
            f"the blobs of queue {queue!r} fill their store of {limit:,} bytes",
            hint=hint or "Delete some, give them a shorter ttl, or raise max_blob_bytes",
        )


class NotRunning(HeadraceError, RuntimeError):
    """Asked something of a worker, pool, coordinator or client that is not started."""

    code = "HR400"


class NoHandler(HeadraceError, ValueError):
    """No handler for task type `task_type` here; `known` lists the types there are."""

    code = "HR401"

    def __init__(self, task_type: str, known: list[str], *, hint: str = "") -> None:
        self.task_type, self.known = task_type, known
        names = ", ".join(known) or "none"
        super().__init__(f"No handler for task type {task_type!r} (known: {names})", hint=hint)


class TaskNotFound(HeadraceError, ValueError):
    """No task with this id: unknown, or its record has expired."""

    code = "HR402"

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(
            f"task {task_id!r} is unknown or expired",
            hint="Results are kept for the result_ttl they were submitted with",
        )


class WaitTimeout(HeadraceError, TimeoutError):
    """Your own timeout on a wait has passed; the task itself goes on."""

    code = "HR403"

    def __init__(self, task_id: str, timeout: float) -> None:
        self.task_id, self.timeout = task_id, timeout
        super().__init__(
            f"task {task_id!r} did not end within {timeout:g} s",
            hint="The task goes on: wait again, or cancel it",
        )


class StreamInterrupted(HeadraceError):
    """Chunks of a task's stream are missing or the handler began again.

    `received` is how many chunks arrived in order before the gap.
    """

    code = "HR404"

    def __init__(self, task_id: str, received: int, problem: str) -> None:
        self.task_id, self.received, self.problem = task_id, received, problem
        super().__init__(
            f"the stream of task {task_id!r} broke after {received} chunks: {problem}",
            hint="The task itself goes on: wait_for() tells how it ended",
        )


class BlobNotFound(HeadraceError, LookupError):
    """The blob is missing, was deleted or has expired. `name` and `queue` say which."""

    code = "HR405"

    def __init__(self, name: str, queue: str, problem: str = "missing or expired") -> None:
        self.name, self.queue, self.problem = name, queue, problem
        super().__init__(
            f"blob {name!r} of queue {queue!r} is not there: {problem}",
            hint="Give it a ttl that is longer than its tasks may wait and run",
        )


class BlobDamaged(HeadraceError):
    """What is stored under a blob's name is not what was put there: do not use what was read."""

    code = "HR406"

    def __init__(self, name: str, queue: str, problem: str) -> None:
        self.name, self.queue, self.problem = name, queue, problem
        super().__init__(
            f"blob {name!r} of queue {queue!r} is damaged: {problem}",
            hint="Somebody else has written into the store: put the data there again",
        )


class TaskError(HeadraceError):
    """How a task ended, when it did not complete.

    `attempt` counts from 1; `remote_type` and `remote_traceback` describe the exception in the
    worker as text, so that its class is not needed here.
    """

    code = "HR500"

    def __init__(
        self,
        message: str,
        *,
        task_id: str = "",
        task_type: str = "",
        attempt: int = 1,
        worker_id: str | None = None,
        remote_type: str = "",
        remote_traceback: str = "",
        reason: str = "",
        hint: str = "",
    ) -> None:
        self.task_id, self.task_type, self.attempt = task_id, task_type, attempt
        self.worker_id, self.reason = worker_id, reason
        self.remote_type, self.remote_traceback = remote_type, remote_traceback
        super().__init__(message, hint=hint)


class TaskFailed(TaskError):
    """The handler raised (or the task was given up); `reason` says which kind of failure."""

    code = "HR501"


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its `timeout`."""

    code = "HR502"


class TaskCancelled(TaskError):
    """The task was cancelled."""

    code = "HR503"
