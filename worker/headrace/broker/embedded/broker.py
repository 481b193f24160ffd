"""The port's `Broker` on a server of this machine's own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from headrace.broker.embedded.files import is_supervised, lock, read_server, unlock
from headrace.broker.jetstream import JetStreamBroker
from headrace.broker.jetstream.options import ConnectOptions
from headrace.broker.port import (
    BrokerInfo,
    BrokerQueue,
    Leases,
    MessageCallback,
    QueueSettings,
    Subscription,
)
from headrace.broker.server import find_binary
from headrace.errors import BrokerError, BrokerUnavailable, ConfigurationError

log = logging.getLogger("headrace.broker")

_START_WITHIN = 40.0  # seconds
_STEP = 0.02
_WATCH_EVERY = 1.0


class EmbeddedBroker:
    """A connection to the nats-server of a folder, which is started if nobody uses it yet.

    The server runs as long as somebody uses it, in whatever process, and a moment longer. It is
    found by the folder alone: HEADRACE_NATS_* variables do not count here.
    """

    durable = True

    def __init__(self, path: str, name: str = "headrace") -> None:
        if not path or "\0" in path:
            raise ConfigurationError(
                "embedded:// needs a folder", hint="Such as embedded:///var/lib/headrace"
            )
        self.folder = Path(path).expanduser().absolute()
        self._name = name
        self._inner: JetStreamBroker | None = None
        self._user: int | None = None
        self._port = 0
        self._watch: asyncio.Task[None] | None = None

    # --- its life ---

    async def connect(self) -> None:
        """Start the server if it does not run, and connect.

        Raises `ConfigurationError` for a folder that cannot hold it, `BrokerError` if the server
        does not start.
        """
        if self._inner is not None:
            return
        find_binary()
        try:
            _make(self.folder)
            self._user = await self._become_user()
            self._inner = await self._attach()
        except OSError as error:
            self._leave()
            if isinstance(error, BrokerError):
                raise
            raise _unusable(self.folder, error) from error
        except BaseException:
            self._leave()
            raise
        self._watch = asyncio.create_task(self._keep_alive(), name="headrace-embedded")

    async def _become_user(self) -> int:
        # Asked again and again, and not waited for in a thread, which would have the lock for good
        # if this is cancelled meanwhile.
        for _ in range(round(_START_WITHIN / _STEP)):
            user = lock(self.folder / "users.lock", fcntl.LOCK_SH | fcntl.LOCK_NB)
            if user is not None:
                return user
            await asyncio.sleep(_STEP)  # the server of the last user is just stopping
        raise BrokerUnavailable(f"the embedded server in {str(self.folder)!r} does not stop")

    async def _attach(self) -> JetStreamBroker:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_WITHIN
        while True:
            # In a thread: another process may be starting the server just now.
            facts = await asyncio.to_thread(_ensure_server, self.folder)
            options = ConnectOptions((f"nats://127.0.0.1:{facts['port']}",), token=facts["token"])
            broker = JetStreamBroker(f"embedded://{self.folder}", self._name, options)
            try:
                await broker.connect()
            except BrokerUnavailable:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.1)  # it is being restarted
            else:
                self._port = facts["port"]
                return broker

    async def _keep_alive(self) -> None:
        """Start the supervisor again if somebody has killed it."""
        troubled = False
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            try:
                if is_supervised(self.folder):
                    troubled = False
                    continue
                log.warning("the embedded server's supervisor has gone and is started again")
                facts = await asyncio.to_thread(_ensure_server, self.folder)
                if facts["port"] != self._port:
                    self._port = facts["port"]
                    log.error("the embedded server had to take another port: restart this process")
            except (BrokerUnavailable, OSError) as error:
                if not troubled:  # once, and not every second
                    log.error("the embedded server in %s: %s", self.folder, error)
                troubled = True

    async def close(self) -> None:
        """Disconnect; the server stops a moment later if nobody else uses it."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        inner, self._inner = self._inner, None
        try:
            if inner is not None:
                await inner.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        user, self._user = self._user, None
        if user is not None:
            unlock(user)

    # --- everything else is the server's ---

    @property
    def _broker(self) -> JetStreamBroker:
        if self._inner is None:
            raise BrokerUnavailable("the broker is not connected")
        return self._inner

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message."""
        return self._broker.max_payload

    @property
    def connected(self) -> bool:
        """Whether it is connected just now."""
        return self._inner is not None and self._inner.connected

    def queue(self, name: str, settings: QueueSettings | None = None) -> BrokerQueue:
        """A queue by name."""
        return self._broker.queue(name, settings)

    async def queues(self) -> list[str]:
        """Names of the queues there are."""
        return await self._broker.queues()

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message."""
        await self._broker.publish(subject, body, reply)

    async def subscribe(self, subject: str, callback: MessageCallback) -> Subscription:
        """Receive core messages."""
        return await self._broker.subscribe(subject, callback)

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes | None:
        """One answer to a core message."""
        return await self._broker.request(subject, body, timeout)

    async def flush(self) -> None:
        """Wait for the server."""
        await self._broker.flush()

    async def leases(self, ack_wait: float, slots: int) -> Leases:
        """Start the lease keeper."""
        return await self._broker.leases(ack_wait, slots)

    def info(self) -> BrokerInfo:
        """The server's version, and the folder for a url."""
        version = "" if self._inner is None else self._inner.info().version
        return BrokerInfo("embedded", version, f"embedded://{self.folder}")


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "users.lock").touch(mode=0o600)


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{str(folder)!r} cannot hold the embedded server: {error.strerror or error}",
        hint="Give a folder that you may write to: embedded:///some/folder",
    )


def _ensure_server(folder: Path) -> dict[str, Any]:
    """Start the supervisor unless there is one, and wait until its server listens; its facts."""
    starting = lock(folder / "start.lock", fcntl.LOCK_EX)
    assert starting is not None
    try:
        if not is_supervised(folder):
            _start(folder)
        facts = read_server(folder)
    finally:
        unlock(starting)
    if facts is None:
        raise BrokerUnavailable(
            f"{str(folder / 'server.json')!r} has gone, or is damaged",
            hint="Stop all processes that use the folder, and start them again",
        )
    return facts


def _start(folder: Path) -> None:
    with open(folder / "supervisor.log", "wb") as output:
        process = subprocess.Popen(
            # -P: a module of this name in the current folder is not ours
            [sys.executable, "-P", "-m", "headrace.broker.embedded.supervisor", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    try:
        answer, _ = process.communicate(timeout=_START_WITHIN)
        problem = json.loads(answer)
    except (subprocess.TimeoutExpired, ValueError):
        words = (folder / "supervisor.log").read_text().strip().splitlines()
        problem = {"error": words[-1] if words else "it did not answer"}
    finally:
        process.kill()  # has ended, unless it hangs before it has become nobody's child
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if error := problem.get("error"):
        raise BrokerUnavailable(
            f"the embedded server in {str(folder)!r} did not start: {error}",
            hint=problem.get("hint") or f"See {folder / 'nats.log'}",
        )
