"""Running a handler: its arguments, its chunks, its timeout.

A run is ended from outside by setting its cause and cancelling its asyncio task. What the handler
then returns or raises no longer counts.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from headrace.blobs import Blobs
from headrace.errors import ConfigurationError, InvalidData, PayloadTooLarge
from headrace.runtime.context import Context
from headrace.runtime.deadlines import Deadlines
from headrace.runtime.handlers import Handler, Kind
from headrace.runtime.outcome import Outcome, describe
from headrace.runtime.run import Cause, Run, bad_data, failure, timed_out
from headrace.runtime.threads import Threads
from headrace.task import TaskStatus
from headrace.wire import Reason, TaskEvent, encode_event

log = logging.getLogger("headrace.worker")

EventSender = Callable[[str, bytes], Coroutine[Any, Any, None]]
"""Publishes an event's body on a task's event subject."""

_LAST_PROGRESS = 1.0  # seconds that a task's end waits for a connection that takes nothing


class Executor:
    """Runs handlers for one worker."""

    def __init__(
        self, send_event: EventSender, resources: Mapping[str, Any], blobs: Blobs | None = None
    ) -> None:
        self._send_event = send_event
        self._resources = resources
        self._blobs = blobs
        self._threads = Threads()
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._sending: set[asyncio.Task[None]] = set()
        self._deadlines = Deadlines[Run](self._loop, self._on_timeout)

    def close(self) -> None:
        """End the idle threads."""
        self._deadlines.close()
        self._threads.close()

    async def execute(self, run: Run) -> Outcome | None:
        """Run the handler; its outcome, or None if the run was ended by a stop or a cancel."""
        self._deadlines.add(run, run.timeout)
        try:
            outcome = await self._attempt(run)
        finally:
            self._deadlines.remove(run)
            run.in_handler = False
        if run.sending is not None:  # who reads the record has been sent all progress before it
            await asyncio.wait([run.sending], timeout=_LAST_PROGRESS)
        if run.cause is Cause.TIMEOUT:
            return timed_out(run)
        return None if run.cause is not None else outcome

    def _on_timeout(self, run: Run) -> None:
        self.end(run, Cause.TIMEOUT)

    def end(self, run: Run, cause: Cause) -> bool:
        """End the run from outside; whether it was still in its handler."""
        if not run.in_handler or run.cause is not None:
            return False
        run.cause, run.told_at = cause, time.monotonic()
        if run.context is not None:
            run.context.cancelled = True
        if run.asyncio_task is not None:
            run.asyncio_task.cancel()
        return True

    async def _attempt(self, run: Run) -> Outcome:
        handler = run.handler
        signature = handler.signature
        # Nobody else sees a context: what a handler does not ask for is not made.
        context = self._context(run) if signature.asks_context else None
        try:
            args, kwargs = signature.bind(run.task.data, context, self._resources)
        except InvalidData as error:
            return bad_data(error)
        except ConfigurationError as error:
            return describe(error, Reason.HANDLER, traceback=False)
        try:
            if handler.kind is Kind.COROUTINE:
                value = await handler.function(*args, **kwargs)
            else:
                value = await self._call(run, handler, args, kwargs)
            return Outcome(TaskStatus.COMPLETED, signature.result_to_json(value))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if run.cause is None and task is not None and task.cancelling():
                raise  # not ours: the loop itself is being torn down
            if task is not None:
                while task.cancelling():
                    task.uncancel()
            return failure(run, error)
        except InvalidData as error:
            return describe(error, Reason.RESULT, traceback=False)
        except PayloadTooLarge as error:
            if error is not run.refused:  # of a submit within the handler
                return failure(run, error)
            return describe(error, Reason.RESULT, traceback=False)
        except GeneratorExit:
            raise
        except KeyboardInterrupt as error:
            if _is_ctrl_c(error):
                raise
            return failure(run, error)
        except BaseException as error:  # also SystemExit: it ends the task, not the worker
            return failure(run, error)

    def _context(self, run: Run) -> Context:
        task = run.task.to_task(TaskStatus.RUNNING)
        task.started_at, task.worker_id = run.started_at, run.worker_id
        run.context = Context(
            task, run.attempt, run.worker_id, self._sender(run), self._blobs, self._loop
        )
        return run.context

    async def _call(
        self, run: Run, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if handler.kind is Kind.STREAM:
            generator = handler.function(*args, **kwargs)
            try:
                async for chunk in generator:
                    await self._chunk(run, handler.signature.result_to_json(chunk))
            finally:
                await generator.aclose()
            return None
        if handler.kind is Kind.PLAIN_STREAM:
            return await self._threads.run(lambda: self._iterate(run, handler, args, kwargs))
        value = await self._threads.run(lambda: handler.function(*args, **kwargs))
        # A callable that is no coroutine function but returns an awaitable all the same.
        return await value if hasattr(value, "__await__") else value

    def _iterate(
        self, run: Run, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        for chunk in handler.function(*args, **kwargs):
            if run.cause is not None:
                return
            value = handler.signature.result_to_json(chunk)
            # Waited for, so that a fast generator does not run ahead of the connection.
            asyncio.run_coroutine_threadsafe(self._chunk(run, value), self._loop).result()

    # --- events ---

    async def _chunk(self, run: Run, value: Any) -> None:
        body = encode_event(TaskEvent("chunk", run.id, run.chunks, value))
        if run.cause is None:
            try:
                await self._send_event(run.task.id, body)
            except PayloadTooLarge as error:
                run.refused = PayloadTooLarge(f"chunk {run.chunks}", error.size, error.limit)
                raise run.refused from None
        run.chunks += 1

    def _sender(self, run: Run) -> Callable[[str, Any, str], None]:
        def send(kind: str, value: Any, text: str) -> None:
            if run.cause is not None:
                return
            body = encode_event(TaskEvent(kind, run.id, run.chunks, value, text))
            if threading.get_ident() == self._thread_id:
                self._send_soon(run, body)
            else:
                self._loop.call_soon_threadsafe(self._send_soon, run, body)

        return send

    def _send_soon(self, run: Run, body: bytes) -> None:
        run.sending = self._loop.create_task(self._send_if_it_fits(run.task.id, body))
        self._sending.add(run.sending)
        run.sending.add_done_callback(self._sending.discard)

    async def _send_if_it_fits(self, task_id: str, body: bytes) -> None:
        try:
            await self._send_event(task_id, body)
        except PayloadTooLarge as error:  # its text is bounded: the server's limit is very small
            log.warning("a progress of %s was not sent: %s", task_id, error.message)


def _is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Whether a signal raised it, which happened to arrive in a handler, and not the handler."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True  # nothing tells the two apart: a person must be able to stop the program
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name == "_on_sigint"  # asyncio's own
