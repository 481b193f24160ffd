"""python -m tests.faults --minutes 10 --seed 7 --servers 3 --workers 6 [--fault NAME]

Tasks with known effects, faults at moments that the seed chooses, and a check at the end. Exit code
1 if anything is violated. docs/faults.md says what is injected and what is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults import ground as grounds
from tests.faults.check import violations
from tests.faults.driver import Setting, carry_out
from tests.faults.figures import figures
from tests.faults.ground import Ground
from tests.faults.plan import BY_NAME, KINDS, make_plan
from tests.faults.report import problems, summary


def arguments(given: list[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for how long tasks come")
    parser.add_argument("--seed", type=int, help="of all chance; printed first; else a new one")
    parser.add_argument("--servers", type=int, choices=(1, 3), default=3)
    parser.add_argument("--workers", type=int, default=6, help="worker processes")
    parser.add_argument("--slots", type=int, default=4, help="tasks at once in each")
    parser.add_argument("--rate", type=float, default=30.0, help="tasks a second")
    parser.add_argument("--ack-wait", type=float, default=5.0, help="seconds of a lease")
    parser.add_argument("--fault", action="append", choices=sorted(BY_NAME), metavar="NAME",
                        help=f"only this one; may be repeated: {', '.join(BY_NAME)}")  # fmt: skip
    parser.add_argument("--once", action="store_true", help="each fault once, as early as can be")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy logs and effects there")
    return parser.parse_args(given)


def main() -> int:
    """Entry point."""
    options = arguments(sys.argv[1:])
    code = grounds.enter(sys.argv[1:])
    if code is not None:
        return code
    faulthandler.register(signal.SIGUSR1)
    if options.seed is None:
        options.seed = secrets.randbelow(2**31)
    print(f"seed {options.seed}", flush=True)
    kinds = [name for name in options.fault or BY_NAME if BY_NAME[name].servers <= options.servers]
    here = Ground(options.servers) if grounds.inside() else None
    if here is None:
        left_out = [name for name in kinds if BY_NAME[name].namespaces]
        kinds = [name for name in kinds if name not in left_out]
        if left_out:
            print(f"left out: {', '.join(left_out)}: no namespaces: {grounds.why_not()}")
            if options.fault:
                return 2
    folder = here.folder if here else Path(tempfile.mkdtemp(prefix="headrace-faults-"))
    try:
        return run(options, kinds, folder, here)
    finally:
        if options.keep:
            ignore = shutil.ignore_patterns("store")
            shutil.copytree(folder, options.keep, ignore=ignore, dirs_exist_ok=True)
        if here is None:
            shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace, kinds: list[str], folder: Path, here: Ground | None) -> int:
    """Plan, carry out, judge, report."""
    plan = make_plan(options.seed, options.minutes * 60, kinds, rate=options.rate,
                     ack_wait=options.ack_wait, once=options.once)  # fmt: skip
    setting = Setting(options.servers, options.workers, options.slots, options.ack_wait)

    def say(line: str) -> None:
        print(line, flush=True)

    seen, told = asyncio.run(carry_out(plan, setting, folder, here, say))
    found, known = violations(seen), figures(seen, told)
    for line in summary(known):
        say(line)
    for line in problems(found, _again(options)):
        say(line)
    if options.json:
        result = {"seed": options.seed, "violations": found, **known.to_json()}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if found else 0


def _again(options: argparse.Namespace) -> str:
    parts = [f"python -m tests.faults --seed {options.seed} --minutes {options.minutes:g}",
             f"--servers {options.servers} --workers {options.workers} --slots {options.slots}",
             f"--rate {options.rate:g} --ack-wait {options.ack_wait:g}",
             *(f"--fault {name}" for name in options.fault or ())]  # fmt: skip
    return " ".join(parts + ["--once"] * options.once)


__all__ = ["KINDS", "arguments", "main"]

if __name__ == "__main__":
    sys.exit(main())
