"""`python -m headrace_operator`: one replica of the operator, in the foreground."""

from __future__ import annotations

import asyncio
import os
import sys

from pydantic import ValidationError

from headrace_operator.settings import Settings
from headrace_operator.wiring import Operator, configure_logging


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = Settings()
    except ValidationError as error:
        for row in error.errors(include_url=False):
            name = "_".join(str(each) for each in row["loc"]).upper()
            print(f"HEADRACE_OPERATOR_{name}: {row['msg']}", file=sys.stderr)  # noqa: T201  # no log is configured yet
        return 2
    configure_logging(settings.log_format)
    asyncio.run(Operator(settings).run())
    # What kopf leaves running must not hold up the end: all that is ours has been closed.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
