"""One connection to one server with one set of rights: all queues there, read by one sweep.

`STREAM.LIST` once a second tells for every queue how much it holds and whether anything moved (8 ms
for a thousand queues); `CONSUMER.LIST` sizes only those that hold something or moved.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import nats.errors

from headrace.broker.jetstream.lasting_client import LastingClient
from headrace.broker.jetstream.options import ConnectOptions
from headrace.broker.jetstream.refusals import is_denial, says_why, words
from headrace.broker.jetstream.rights import Rights
from headrace.errors import AccessDenied
from headrace.scaling import Depth
from headrace.wire import Lane, QueueNames, lane_and_id, lane_of_consumer
from headrace_operator.app.ports import Key, QueueAddress, QueueLook
from headrace_operator.errors import QueueUnreadable

log = logging.getLogger("headrace_operator.nats")

SWEEP = 1.0  # seconds
_CONNECT = 4.0  # seconds
_AGAIN = 0.5  # seconds between two tries to connect
_INBOX = "_INBOX"
_REQUEST = 2.0  # seconds an answer may take
_LIST = 6.0  # the same of a list: a server waits 4 for others before it tells who is missing
_AT_ONCE = 64  # requests under way
_RECENT = 3  # sweeps for which a queue that moved is read once more
_STREAM_NOT_FOUND = 10059
_WALK = 10.0  # seconds that a walk over all subjects may take: 1.3 for 200,000, measured
_WALK_SHARE = 20  # a walk is repeated no sooner than so many times what it took


@dataclass(slots=True)
class _Queue:
    """What is known of one queue."""

    names: QueueNames
    pools: set[Key] = field(default_factory=set)
    messages: int = 0
    last_sequence: int = -1
    exists: bool = True
    lanes: tuple[Depth, ...] = ()
    read_at: float = 0.0
    """Monotonic; 0: never."""
    problem: str = "has not been read yet"
    reason: str = "NotRead"
    recent: int = _RECENT
    armed: Any = None
    woken_at: float = -1e9
    """Monotonic; when a task's message last woke it."""
    unserved: Counter[Lane] = field(default_factory=Counter)
    """Tasks of lanes without a consumer, as of the last walk over all subjects."""
    walk_at: float = 0.0
    """Monotonic time from which another walk may be made."""


class Account:
    """Reads the queues of an address; tells `wake` which pools have something to look at."""

    def __init__(self, address: QueueAddress, wake: Callable[[Key], None]) -> None:
        self.address = address
        self._wake = wake
        self._nc = LastingClient(ConnectOptions(()))
        self._rights = Rights(_INBOX)
        self._queues: dict[str, _Queue] = {}
        self._problem = "is not connected yet"
        self._last_error: Exception | None = None
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    # --- its life ---

    def start(self) -> None:
        """Connect and begin to sweep."""
        self._task = asyncio.create_task(self._run(), name="headrace-sweep")

    async def stop(self) -> None:
        """End the connection."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        try:
            await self._nc.close()
        except (nats.errors.Error, OSError, AssertionError):
            pass  # never connected; or reconnecting, when nats-py gives up halfway

    async def _run(self) -> None:
        await self._connect()
        while not self._stopping:
            began = time.monotonic()
            self._kick.clear()  # before the sweep: what comes meanwhile asks for another one
            try:
                await self._sweep()
            except (nats.errors.Error, OSError, TimeoutError, ValueError, KeyError) as error:
                self._fail(self._why("does not answer", error))
            left = SWEEP - (time.monotonic() - began)
            try:
                async with asyncio.timeout(max(0.05, left)):
                    await self._kick.wait()
            except TimeoutError:
                pass

    async def _connect(self) -> None:
        while not self._stopping:
            try:
                # Without a limit of ours it would try for ever, and say nothing.
                self._last_error = None
                self._nc = LastingClient(self._options())  # one that was closed connects no more
                async with asyncio.timeout(_CONNECT):
                    await self._nc.connect_as_told(**self._settings())
                return
            except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
                self._fail(self._why("cannot be reached", self._last_error or error))
            await self._close()
            await asyncio.sleep(1.0)

    def _options(self) -> ConnectOptions:
        """What the address says, and nothing of this process's environment: its author must not
        be given credentials of the operator's. Raises `ConfigurationError`."""
        found = self.address
        return replace(
            ConnectOptions.from_url(found.url, {}),
            creds=found.credentials or None,
            tls_ca=found.ca or None,
            tls_cert=found.certificate or None,
            tls_key=found.key or None,
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "name": "headrace-operator",
            "connect_timeout": 3,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": _AGAIN,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "allow_reconnect": True,
            "error_cb": self._on_error,
            "reconnected_cb": self._on_reconnect,
        }

    async def _on_error(self, error: Exception) -> None:
        if self._rights.take(str(error)):
            return
        if not says_why(self._last_error) or isinstance(error, ConnectionRefusedError):
            self._last_error = error  # not the reset behind a reason: that says less
        if says_why(error) and not self._nc.is_connected:
            self._fail(self._why("cannot be reached", error))

    def _why(self, what: str, error: Exception) -> str:
        """What is wrong with the server, for a sentence that begins with it."""
        if not self._nc.is_connected and says_why(self._last_error):
            assert self._last_error is not None
            error = self._last_error
        if is_denial(error):
            return words(error).removeprefix("the NATS server ")
        return f"{what}: {words(error) if says_why(error) else _words(error)}"

    @property
    def _reason(self) -> str:
        return "Unauthorized" if self._problem.startswith("refuses") else "Unreachable"

    async def _on_reconnect(self) -> None:
        self._last_error = None
        for queue in self._queues.values():
            queue.armed = None  # the subscription may have fired unseen: arm anew, then read
            queue.recent = _RECENT
        self._kick.set()

    # --- what pools ask ---

    def watch(self, key: Key, name: str) -> None:
        """Read this queue for this pool."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue(QueueNames(name))
            self._kick.set()
        queue.pools.add(key)

    def forget(self, key: Key) -> None:
        """The pool has gone."""
        for name, queue in list(self._queues.items()):
            queue.pools.discard(key)
            if not queue.pools:
                del self._queues[name]

    @property
    def idle(self) -> bool:
        """No pool needs it."""
        return not self._queues

    def pools(self, name: str) -> frozenset[Key]:
        """Who watches this queue."""
        queue = self._queues.get(name)
        return frozenset(queue.pools) if queue is not None else frozenset()

    def look(self, name: str) -> QueueLook:
        """The newest figures. Raises `QueueUnreadable`."""
        queue = self._queues.get(name)
        if queue is None or (not queue.read_at and not self._problem):
            raise QueueUnreadable("NotRead", f"queue {name} has not been read yet")
        if not queue.read_at:
            reason = "NotRead" if self._problem.endswith("yet") else self._reason
            raise QueueUnreadable(reason, f"the NATS server {self._problem}")
        if not queue.exists:
            raise QueueUnreadable("NoStream", queue.problem)
        age = time.monotonic() - queue.read_at
        if self._problem and age > 3 * SWEEP:
            raise QueueUnreadable(self._reason, f"the NATS server {self._problem}")
        if queue.problem:
            raise QueueUnreadable(queue.reason, queue.problem)
        return QueueLook(queue.lanes, queue.messages, age)

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes | None:
        """One answer to a core message; None without one."""
        try:
            msg = await self._rights.ask(subject, self._nc.request(subject, body, timeout=timeout))
        except (nats.errors.Error, OSError, TimeoutError):
            return None
        return bytes(msg.data)

    async def gather(
        self, subject: str, enough: Callable[[bytes], bool], timeout: float, quiet: float
    ) -> None:
        """Ask, and hand over answers until there are enough or no more come. Raises
        `QueueUnreadable`."""
        if not self._nc.is_connected:
            raise QueueUnreadable(self._reason, f"the NATS server {self._problem or 'is gone'}")
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def receive(msg: Any) -> None:
            answers.put_nowait(bytes(msg.data))

        inbox = self._nc.new_inbox()
        try:
            subscription = await self._nc.subscribe(inbox, cb=receive)
            await self._nc.publish(subject, b"", reply=inbox)
            wait = timeout
            while True:
                try:
                    async with asyncio.timeout(wait):
                        answer = await answers.get()
                except TimeoutError:
                    break
                if not answer or enough(answer):  # without a body: nobody serves it
                    break
                wait = quiet
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise QueueUnreadable("Unreachable", f"the NATS server {_words(error)}") from error

    # --- the sweep ---

    async def _sweep(self) -> None:
        if not self._queues:
            return
        now = time.monotonic()
        for queue in list(self._queues.values()):
            # One that is emptied all the time wakes once a sweep; the sweep sees the rest.
            rested = now - queue.woken_at >= SWEEP
            if queue.messages == 0 and queue.armed is None and queue.exists and rested:
                await self._arm(queue)
        await self._nc.flush(timeout=2)  # armed first, then read: nothing falls between
        rows, missing = await self._streams()
        if self._problem:
            log.info("the NATS server answers again")
        self._problem = ""
        reads = []
        for name, queue in list(self._queues.items()):
            if queue.names.work_stream in missing:  # there may be a row of zeros for it
                queue.exists, queue.read_at = True, queue.read_at or time.monotonic()
                queue.reason = "Incomplete"
                queue.problem = f"no NATS server answers for queue {name}"
                continue
            row = rows.get(queue.names.work_stream)
            if row is None:
                self._gone(queue, name)
                continue
            state = row["state"]
            moved = state["last_seq"] != queue.last_sequence
            woke = state["messages"] and not queue.messages
            queue.exists = True
            queue.messages, queue.last_sequence = state["messages"], state["last_seq"]
            queue.recent = _RECENT if moved or queue.problem else max(0, queue.recent - 1)
            if queue.messages or queue.recent:
                reads.append(self._read(queue))
            else:
                queue.lanes, queue.read_at, queue.problem = (), time.monotonic(), ""
            if woke:
                self._wake_all(queue)
        await asyncio.gather(*reads)

    def _gone(self, queue: _Queue, name: str) -> None:
        if queue.read_at and queue.exists:
            self._wake_all(queue)
        queue.exists, queue.read_at, queue.messages = False, time.monotonic(), 0
        queue.last_sequence = -1
        queue.problem = (
            f"queue {name} has no stream: a client or a worker makes it when it first uses it"
        )

    async def _streams(self) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """The streams by name, and the names of those that no server answers for."""
        rows: dict[str, dict[str, Any]] = {}
        missing: set[str] = set()
        while True:
            offset = len(rows.keys() | missing)
            ask = {"subject": "headrace.q.>", "offset": offset}
            page = await self._api("STREAM.LIST", ask, _LIST)
            missing |= set(page.get("missing") or ())
            rows |= {each["config"]["name"]: each for each in page.get("streams") or ()}
            got = len(rows.keys() | missing)
            if got == offset or got >= page["total"]:
                return rows, missing

    async def _read(self, queue: _Queue) -> None:
        """The lanes of one queue; a part that is missing is a problem and not a zero."""
        async with self._limit:
            rows: list[dict[str, Any]] = []
            try:
                while True:
                    page = await self._api(
                        f"CONSUMER.LIST.{queue.names.work_stream}", {"offset": len(rows)}
                    )
                    if page.get("missing"):
                        raise ValueError(f"no answer for {', '.join(page['missing'])[:200]}")
                    found = page.get("consumers") or []
                    rows += found
                    if not found or len(rows) >= page["total"]:
                        break
            except (nats.errors.Error, OSError, TimeoutError) as error:
                queue.reason = "Unreachable"
                queue.problem = f"the NATS server does not answer about its queue: {_words(error)}"
                return
            except (ValueError, KeyError) as error:
                queue.reason = "Incomplete"
                queue.problem = f"queue {queue.names.queue} was read in part: {_words(error)}"
                return
        lanes = []
        for row in rows:
            lane = lane_of_consumer(row["name"])
            if lane is not None:
                lanes.append(
                    Depth(lane.priority, row["num_pending"], row["num_ack_pending"], lane.tag)
                )
        known = sum(each["num_pending"] + each["num_ack_pending"] for each in rows)
        try:
            missing = await self._missing(queue, known)
            if missing:
                lanes += await self._without_consumer(
                    queue, {each["name"] for each in rows}, missing
                )
        except (nats.errors.Error, OSError, TimeoutError, ValueError):
            pass  # looked at again at the next sweep: the messages are still there
        before = queue.lanes
        queue.lanes, queue.read_at, queue.problem = tuple(lanes), time.monotonic(), ""
        if before != queue.lanes:
            self._wake_all(queue)

    async def _missing(self, queue: _Queue, known: int) -> int:
        """How many tasks no consumer counts. What was settled since the sweep counted the stream is
        not among them: of a queue that drains, the consumers always know fewer by then."""
        if queue.messages <= known:
            return 0
        answer = await self._api(f"STREAM.INFO.{queue.names.work_stream}", {})
        state = answer["state"]
        came = state["last_seq"] - queue.last_sequence
        return max(0, int(state["messages"] - came - known))

    async def _without_consumer(self, queue: _Queue, known: set[str], missing: int) -> list[Depth]:
        """Tasks of lanes that no worker has served yet: a foreign client's first publish. Workers
        make the consumers, so without this a pool at zero would never see them.

        The server walks over every waiting task for it, and tells the first 100,000: what it did
        not tell is shared out as what it told.
        """
        if time.monotonic() >= queue.walk_at:
            began = time.monotonic()
            answer = await self._api(
                f"STREAM.INFO.{queue.names.work_stream}",
                {"subjects_filter": f"{queue.names.work}>"},
                _WALK,
            )
            queue.walk_at = time.monotonic() + _WALK_SHARE * (time.monotonic() - began)
            queue.unserved.clear()
            for subject, count in (answer["state"].get("subjects") or {}).items():
                queue.unserved[lane_and_id(subject)[0]] += count
        counts = {lane: n for lane, n in queue.unserved.items() if lane.consumer not in known}
        told = sum(counts.values())
        return [
            Depth(lane.priority, max(count, count * missing // told), 0, lane.tag)
            for lane, count in counts.items()
        ]

    async def _arm(self, queue: _Queue) -> None:
        """One message, and the subscription is over: a burst costs nothing more."""

        async def woken(_: Any) -> None:
            queue.armed, queue.woken_at = None, time.monotonic()
            queue.recent = _RECENT
            self._kick.set()  # the sweep sizes it, and wakes its pools

        subscription = await self._nc.subscribe(queue.names.wake + ">", cb=woken)
        await subscription.unsubscribe(limit=1)
        queue.armed = subscription

    def _wake_all(self, queue: _Queue) -> None:
        for key in queue.pools:
            self._wake(key)

    async def _api(
        self, call: str, body: dict[str, Any], timeout: float = _REQUEST
    ) -> dict[str, Any]:
        subject = f"$JS.API.{call}"
        request = self._nc.request(subject, json.dumps(body).encode(), timeout=timeout)
        msg = await self._rights.ask(subject, request)  # a refusal has no answer
        answer: dict[str, Any] = json.loads(msg.data)
        if error := answer.get("error"):
            raise ValueError(f"{error.get('description')} ({error.get('err_code')})")
        return answer

    def _fail(self, problem: str) -> None:
        new = self._problem.partition(":")[0] != problem.partition(":")[0]
        if new:
            log.warning("the NATS server %s", problem)
            for queue in self._queues.values():
                self._wake_all(queue)
        self._problem = problem


def _words(error: BaseException) -> str:
    """The kind of an error and its own words, but no url that might hold a secret."""
    if isinstance(error, AccessDenied):
        return error.message
    text = str(error).removeprefix("nats: ")
    return text if text and "://" not in text else type(error).__name__
