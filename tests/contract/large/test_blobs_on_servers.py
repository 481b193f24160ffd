"""Blobs where there is a server: other clients, outages, rights, storage, memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from tests.support.nats_servers import NatsCluster, NatsProcess

from headrace import AccessDenied, BlobNotFound, BlobStoreFull, Client, QueueSettings, SyncClient
from headrace.blobs import PART
from headrace.broker.jetstream.grants import Role, permissions

from .conftest import MIB

HERE = Path(__file__).parent


async def test_other_clients_of_nats_read_and_delete_it(
    nats_server: NatsProcess, queue_name: str
) -> None:
    """It is an object store of NATS: here nats-py's."""
    data = bytes(range(256)) * 2_000
    connection = await nats.connect(nats_server.url)
    async with Client(nats_server.url, queue_name) as client:
        blob = await client.put_blob(data)
        store = await connection.jetstream().object_store(f"headrace-{queue_name}")
        found = await store.get(blob.name)
        assert found.data == data
        assert (found.info.size, found.info.chunks) == (len(data), 4)
        await store.delete(blob.name)
        with pytest.raises(BlobNotFound, match="deleted"):
            await client.get_blob(blob)
    await connection.close()


async def test_an_upload_and_a_download_outlive_a_restart(tmp_path: Path, queue_name: str) -> None:
    server = NatsProcess(tmp_path / "nats").start()
    first, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"a" * (3 * PART)
        first.set()
        await go_on.wait()
        yield b"b" * (3 * PART)

    try:
        async with Client(server.url, queue_name) as client:
            upload = asyncio.create_task(client.put_blob(slowly()))
            await first.wait()
            await asyncio.to_thread(server.kill)
            go_on.set()
            await asyncio.to_thread(server.start)
            blob = await upload
            reading = aiter(client.open_blob(blob))
            data = await anext(reading)
            await asyncio.to_thread(server.restart)
            data += b"".join([piece async for piece in reading])
            assert data == b"a" * (3 * PART) + b"b" * (3 * PART)
    finally:
        server.stop()


@pytest.mark.cluster3
async def test_on_a_cluster_of_three(nats_cluster: NatsCluster, queue_name: str) -> None:
    """The store has as many replicas as its queue; any server may be asked for a part."""
    settings = QueueSettings(replicas=3, max_blob_bytes=8 * MIB)
    data = bytes(range(256)) * 4_000
    connection = await nats.connect(nats_cluster.servers[0].url)
    async with Client(nats_cluster.url, queue_name, settings=settings) as client:
        for _ in range(5):
            assert await client.get_blob(await client.put_blob(data)) == data
        info = await connection.jetstream().stream_info(f"OBJ_headrace-{queue_name}")
        assert info.config.num_replicas == 3
        with pytest.raises(BlobStoreFull):
            await client.put_blob(data * 8)
    await connection.close()


async def test_a_server_with_less_storage_than_the_store_reserves(
    tmp_path: Path, queue_name: str
) -> None:
    """Said with what to do; the queue itself is not hurt."""
    server = NatsProcess(tmp_path / "nats", jetstream=False)
    server._extra = f'jetstream {{ store_dir: "{tmp_path / "store"}", max_file_store: 64MB }}'
    server.start()
    try:
        async with Client(server.url, queue_name) as client:
            with pytest.raises(BlobStoreFull, match="max_file_store"):
                await client.put_blob(b"x")
            await client.submit_async("t")
        settings = QueueSettings(max_blob_bytes=8 * MIB)
        async with Client(server.url, queue_name, settings=settings) as client:
            await client.put_blob(b"x")
    finally:
        server.stop()


async def test_the_store_is_made_anew_if_somebody_deletes_it(
    nats_server: NatsProcess, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.broker.jetstream.publisher.PUBLISH_TIMEOUT", 1.0)
    connection = await nats.connect(nats_server.url)
    async with Client(nats_server.url, queue_name) as client:
        blob = await client.put_blob(b"x")
        await connection.jetstream().delete_stream(f"OBJ_headrace-{queue_name}")
        with pytest.raises(BlobNotFound):
            await client.get_blob(blob)
        with pytest.raises(ConnectionError):
            await client.put_blob(b"x")
        assert await client.get_blob(await client.put_blob(b"x")) == b"x"
    await connection.close()


async def test_with_the_right_and_without(tmp_path: Path) -> None:
    made = permissions([Role.OWNER, Role.PRODUCER], ["q"])
    listed = json.dumps(made)
    without = listed.replace('"$O.headrace-q.>"', '"nothing"')
    assert without != listed
    server = NatsProcess(
        tmp_path / "nats",
        extra=(
            "authorization { users: ["
            f"{{user: may, password: p, permissions: {listed} }}, "
            f"{{user: not, password: p, permissions: {without} }} ] }}"
        ),
    ).start()
    try:
        async with Client(f"nats://may:p@127.0.0.1:{server.port}", "q") as client:
            blob = await client.put_blob(b"data")
            assert await client.get_blob(blob) == b"data"
            assert await client.delete_blob(blob)
        async with Client(f"nats://not:p@127.0.0.1:{server.port}", "q") as client:
            with pytest.raises(AccessDenied, match=r"\$O\.headrace-q"):
                await client.put_blob(b"data")
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["embedded", "nats"])
def test_the_client_without_a_loop(
    request: pytest.FixtureRequest, kind: str, queue_name: str, tmp_path: Path
) -> None:
    if kind == "embedded":
        url = f"embedded://{request.getfixturevalue('embedded_folder')}"
    else:
        url = request.getfixturevalue("nats_server").url
    data = bytes(range(256)) * 2_000
    (tmp_path / "source").write_bytes(data)
    with SyncClient(url, queue_name) as client:
        for source in (data, tmp_path / "source", (data[:9], data[9:])):
            blob = client.put_blob(source, ttl=60)
            assert client.get_blob(blob) == data
        assert b"".join(client.open_blob(blob)) == data
        assert next(client.open_blob(blob)) == data[:PART]  # and left there
        assert client.save_blob(blob, tmp_path / "copy").read_bytes() == data
        assert client.delete_blob(blob)
        with pytest.raises(BlobNotFound):
            client.get_blob(blob)


def test_200_mb_go_up_and_come_down_without_being_held(
    embedded_folder: str, queue_name: str
) -> None:
    """Memory of a client process: what 200 MB add to its peak after 2 MB."""
    output = subprocess.run(
        [sys.executable, str(HERE / "program.py"), f"embedded://{embedded_folder}", queue_name],
        check=True,
        capture_output=True,
        timeout=100,
    ).stdout
    grown = json.loads(output)
    assert grown["size"] == 200 * MIB
    assert grown["put"] < 16 * MIB
    assert grown["get"] < 16 * MIB
