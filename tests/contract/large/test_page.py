"""The example of docs/large-data.md, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "large-data.md").read_text()


def test_the_example_of_the_page(broker_url: str, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    data = bytes(range(256)) * 20_000
    (tmp_path / "video.bin").write_bytes(data)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"HEADRACE_URL": broker_url},
        check=True,
        timeout=60,
    )
    assert (tmp_path / "reversed.bin").read_bytes() == data[::-1]
