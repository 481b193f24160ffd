"""Three handlers over text files: a plain one that needs the processor, an async one, a stream.

headrace up -f examples/documents/pool.yaml
headrace submit measure '"README.md"' -q documents --wait
"""

import asyncio
import lzma
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from headrace import CONTEXT, Context, Coordinator, Reject, WorkerConfig

app = Coordinator(queue="documents", worker_config=WorkerConfig(max_concurrent_tasks=4))


def read(path: str) -> str:
    """The text of a file, or a dead letter with the reason."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Reject(f"{path}: {error.strerror}") from error


@app.handler("measure", timeout=60)
def measure(path: str) -> dict:
    """Plain and bound by the processor: how much a file holds, and how well it compresses."""
    text = read(path)
    packed = len(lzma.compress(text.encode()))
    return {"lines": text.count("\n"), "words": len(text.split()), "packed": packed}


@app.handler("index", retries=2, timeout=60)
async def index(path: str) -> dict[str, int]:
    """Async: the ten words that a file uses most."""
    text = await asyncio.to_thread(read, path)
    return dict(Counter(re.findall(r"[a-z_]{4,}", text.lower())).most_common(10))


@app.handler("summarise", timeout=60)
async def summarise(path: str, *, ctx: Context = CONTEXT) -> AsyncIterator[str]:
    """Streaming: the headings of a file, one by one."""
    names = re.findall(r"^(?:class|def|async def) (\w+)", read(path), re.MULTILINE)
    for number, name in enumerate(names[:5], 1):
        await ctx.progress(number / 5, name)
        yield name
