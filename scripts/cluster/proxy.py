#!/usr/bin/env python3
"""proxy.py PID PORT=HOST:PORT…  A TCP proxy into the network namespace of process PID.

It opens its listeners on 127.0.0.1 out here, then enters the namespace: a socket stays where it
was made. For a process that has to stay outside; what can run under `ns` needs no proxy.
"""

import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


def serve(host, port):
    async def client(reader, writer):
        try:
            inner, outer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, outer), pump(inner, writer))
        for w in (outer, writer):
            w.close()

    return client


def enter(pid):
    with open(f"/proc/{pid}/ns/net") as ns:
        if ctypes.CDLL(None, use_errno=True).setns(ns.fileno(), CLONE_NEWNET):
            sys.exit("setns: " + os.strerror(ctypes.get_errno()))


async def main(pid, specs):
    pairs = []
    for spec in specs:
        local, target = spec.split("=")
        host, port = target.rsplit(":", 1)
        pairs.append((socket.create_server(("127.0.0.1", int(local))), host, int(port)))
    enter(pid)
    for sock, host, port in pairs:
        await asyncio.start_server(serve(host, port), sock=sock)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], sys.argv[2:]))
