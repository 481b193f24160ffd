"""The servers of a run: one, or a cluster of three; their users, their leader, their disks.

Headrace's own processes come as a user with an nkey whose seed is in a file, so that it can be
changed. The driver looks from outside as a user of its own, whom no fault touches.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats.errors
import nkeys
from nats.aio.client import Client as NatsClient
from tests.faults.ground import Ground
from tests.support.nats_servers import NatsProcess, free_ports

from headrace.wire import QueueNames

_PATIENCE = 60.0
_HISTORY = 64  # versions of a record that are kept, so that a second end would be seen


class Servers:
    """Real nats-servers, in network namespaces where there is a ground."""

    def __init__(self, folder: Path, count: int, ground: Ground | None) -> None:
        self.ground = ground
        self.seed_file = folder / "user.nk"
        self._user = self._new_user()
        hosts = [ground.host(n) if ground else "127.0.0.1" for n in range(count)]
        self._routes = [6222] * count if ground else free_ports(count)
        ports = [4222] * count if ground else free_ports(count)
        self._peers = ", ".join(
            f'"nats://{host}:{port}"' for host, port in zip(hosts, self._routes, strict=True)
        )
        self.all = [
            NatsProcess(
                folder / f"n{number}",
                name=f"n{number}",
                port=ports[number],
                host=host,
                before=ground.before(number) if ground else (),
            )
            for number, host in enumerate(hosts)
        ]
        self.users(self._user)
        self.watch = NatsClient()

    @property
    def url(self) -> str:
        """All of them."""
        return ",".join(server.url for server in self.all)

    @property
    def clustered(self) -> bool:
        """Whether there is more than one."""
        return len(self.all) > 1

    # --- users ---

    def _new_user(self) -> str:
        """Write a new seed to the file; its public key."""
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        fresh = self.seed_file.with_suffix(".new")
        fresh.write_bytes(seed)
        fresh.replace(self.seed_file)  # nobody reads half a file
        return nkeys.from_seed(bytearray(seed)).public_key.decode()

    def users(self, user: str) -> None:
        """Let in this one beside the driver; running servers hang up on everybody else."""
        for number, server in enumerate(self.all):
            cluster = ""
            if self.clustered:
                cluster = (
                    f'cluster {{ name: faults, listen: "{server.host}:{self._routes[number]}", '
                    f"routes: [{self._peers}] }}"
                )
            extra = (
                f'authorization {{ users: [{{nkey: "{user}"}}, '
                f"{{user: watch, password: watch}}] }}\n{cluster}"
            )
            server.set_extra(extra)
            if server.running:
                server.reload(extra)

    def revoke(self) -> None:
        """Let nobody in but the driver."""
        self.users(nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
                   .public_key.decode())  # fmt: skip

    def rotate(self) -> None:
        """A new seed in the file, and the servers let it in."""
        self._user = self._new_user()
        self.users(self._user)

    # --- their life ---

    async def start(self) -> None:
        """Start all, wait until they store, connect the driver."""
        for server in self.all:
            await asyncio.to_thread(server.start)
        await self.watch.connect(
            [server.url.replace("//", "//watch:watch@") for server in self.all],
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            ping_interval=2,
            max_outstanding_pings=2,
            error_cb=_ignore,
        )

    async def stop(self) -> None:
        """End all."""
        try:
            await self.watch.close()
        except OSError:
            pass  # nats-py tells so of a server that is gone
        for server in self.all:
            server.kill()

    async def make_state_stream(self, queue: str, config: dict[str, Any]) -> None:
        """Make the stream of records before anybody else does, with room for every version."""
        config = config | {"max_msgs_per_subject": _HISTORY}
        name = QueueNames(queue).state_stream

        async def make() -> dict[str, Any] | None:
            answer = await self.ask(f"STREAM.CREATE.{name}", config)
            return answer if answer and "error" not in answer else None

        await until(make, "the stream of records")

    async def ask(self, call: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """One request to the JetStream API; None if nobody answers."""
        payload = json.dumps(body).encode() if body else b""
        try:
            answer = await self.watch.request(f"$JS.API.{call}", payload, timeout=2)
        except (nats.errors.Error, OSError, TimeoutError):
            return None
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def leader(self, stream: str) -> int:
        """The number of the server that leads a stream."""

        async def look() -> int | None:
            answer = await self.ask(f"STREAM.INFO.{stream}")
            name = (answer or {}).get("cluster", {}).get("leader")
            return self.numbers.get(name) if name else None

        return await until(look, f"a leader of {stream}")

    @property
    def numbers(self) -> dict[str, int]:
        """Server numbers by name."""
        return {server.name: number for number, server in enumerate(self.all)}


async def until(look: Callable[[], Awaitable[Any]], what: str, within: float = _PATIENCE) -> Any:
    """What `look` first gives that is not None, asked for again and again."""
    deadline = asyncio.get_running_loop().time() + within
    while (found := await look()) is None:
        if asyncio.get_running_loop().time() > deadline:
            raise RuntimeError(f"{what}: not within {within:g} s")
        await asyncio.sleep(0.1)
    return found


async def _ignore(_: Exception) -> None:
    """What happens to the servers is the run's own doing."""
