"""`headrace rights` and `headrace queue create`, as users of NATS are set up with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.nats_servers import NatsProcess

from headrace import AccessDenied, Client
from headrace.broker.jetstream.grants import Role, permissions


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
    command = [sys.executable, "-m", "headrace", *arguments]
    return subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=60)


async def test_the_servers_configuration(tmp_path: Path) -> None:
    """Included files, as docs/security.md has it; the owner makes what the producer uses."""
    users = []
    folder = tmp_path / "nats"
    folder.mkdir()
    for role in ("owner", "producer", "dashboard"):
        queue = [] if role == "dashboard" else ["-q", "docs"]
        (folder / f"{role}.conf").write_text(run("rights", role, *queue).stdout)
        users.append(f"{{ user: {role}, password: p, include {role}.conf }}")
    extra = "authorization { users: [\n" + "\n".join(users) + "\n] }"
    server = NatsProcess(folder, extra=extra)
    try:
        server.start()

        def url(user: str) -> str:
            return server.url.replace("//", f"//{user}:p@")

        with pytest.raises(AccessDenied, match=r"STREAM\.CREATE\.HEADRACE_docs"):
            await Client(url("producer"), "docs").start()
        refused = run("queue", "create", "docs", HEADRACE_URL=url("producer"))
        assert refused.returncode == 3
        assert "STREAM.CREATE" in refused.stderr
        created = run("queue", "create", "docs", "--max-size", "5", HEADRACE_URL=url("owner"))
        assert (created.returncode, created.stdout) == (0, "docs\n"), created.stderr
        again = run("queue", "create", "docs", "--max-size", "7", HEADRACE_URL=url("owner"))
        assert again.returncode == 0
        async with Client(url("producer"), "docs") as client:
            await client.submit_async("t", {}, delay=60)
            depth = await client.depth()
            assert (depth.delayed, depth.max_size) == (1, 7)
        seen = run("queue", "list", "--json", HEADRACE_URL=url("dashboard"))
        assert [row["queue"] for row in json.loads(seen.stdout)] == ["docs"]
    finally:
        server.stop()


def test_the_other_forms() -> None:
    made = json.loads(run("rights", "worker", "-q", "a", "-q", "b", "-o", "json").stdout)
    assert made == permissions([Role.WORKER], ["a", "b"])
    nsc = run("rights", "worker", "-q", "a", "-q", "b", "-o", "nsc").stdout
    for side, flag in (("publish", "--allow-pub"), ("subscribe", "--allow-sub")):
        assert f"{flag} '{','.join(made[side]['allow'])}'" in nsc
    assert "--allow-pub-response=1 --response-ttl 60s" in nsc
    private = json.loads(run("rights", "producer", "-q", "a", "--inbox", "_I", "-o", "json").stdout)
    assert "_I.>" in private["subscribe"]["allow"]
    assert "_INBOX.>" not in private["subscribe"]["allow"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker"], "those of one queue"),
        (["boss", "-q", "a"], "'boss' is no role"),
        (["worker", "-q", "a.b"], "a.b"),
        (["worker", "-q", "*"], "queue name"),
        (["worker", "-q", "a", "--inbox", "_I.>"], "_I.>"),
        ([], "ROLE"),
    ],
)
def test_what_makes_no_sense(arguments: list[str], said: str) -> None:
    done = run("rights", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not done.stdout
