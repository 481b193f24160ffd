"""The command line. `main` is the entry point; each group of commands has a module of its own."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; ends with the exit codes of `headrace.cli.exits`."""
    from headrace.cli.app import app
    from headrace.cli.exits import INTERRUPTED, exit_code, say
    from headrace.errors import HeadraceError

    try:
        app(standalone_mode=True)
    except HeadraceError as error:
        say(error)
        raise SystemExit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader has seen enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


__all__ = ["main"]
