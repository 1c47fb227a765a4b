"""Checks, then times of otjax's engines on a GPU, unattended, into a JSON file that grows.

    python benchmarks/gpu_engine.py OUT.json [--deadline S] [--quick] [--parts PART ...]

Solves run in float32; what is right is computed in float64, on the host for the checks (`host.py`)
and by blocks on the device for the marginal errors of timed solves. Each part (`gpu/`) has a limit
of its own, none begins after the deadline, and the file has all that was measured whenever the run
is ended; what does not come back from the device is ended by a thread. Exits with 1 if a check
failed.
"""

import os


# First calls are made by processes that share the device with this one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import argparse
import json
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from accelerator import describe_device, line, Record, versions
from gpu import checks, first_calls, flows, times
from gpu.problems import ENGINES, FULL, QUICK, Scale, TOLERANCE


# What is run, in this order, and how long each may take, in seconds.
PARTS: dict[str, tuple[Callable[[Scale], Iterator[Record]], float]] = {
    "small_checks": (checks.small_checks, 40),
    "batch": (times.batch, 40),
    "small": (times.small, 20),
    # Before what holds matrices, so that the peak of memory is its own.
    "huge": (times.huge, 100),
    "medium_64": (times.medium_64, 40),
    "medium_3": (times.medium_3, 20),
    "large_3": (times.large_3, 30),
    "large_64": (times.large_64, 40),
    "first_calls": (first_calls.first_calls, 90),
    "checks": (checks.checks, 60),
    "other_batches": (times.other_batches, 40),
    "exact": (times.exact, 60),
    "couplings": (flows.couplings, 60),
    "drifts": (flows.drifts, 40),
    "batch_checks": (checks.batch_checks, 60),
    "other_engines": (times.other_engines, 60),
    "more_checks": (checks.more_checks, 60),
}
# For all of them; where it is longer, so is the limit of each.
DEADLINE = 420.0
# So long after its deadline a run that hangs is ended, in seconds.
GRACE = 30.0


class Late(BaseException):
    """A part took longer than its limit. No `Exception`, lest anybody handle it."""


class Report:
    """The records so far, whole in the file after each."""

    def __init__(self, path: pathlib.Path, scale: Scale):
        self.path, self.begin = path, time.perf_counter()
        self.content: dict[str, Any] = {
            "device": describe_device(),
            "versions": versions(),
            "engines": list(ENGINES),
            "scale": scale._asdict(),
            "tolerance": TOLERANCE,
            "ended": False,
            "records": [],
        }

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    @property
    def passed(self) -> bool:
        return all(record.get("passed", True) for record in self.content["records"])

    def add(self, record: Record) -> None:
        print(f"{self.seconds:6.1f} s  {line(record)}", flush=True)
        self.content["records"].append(record)
        self.write()

    def write(self) -> None:
        self.content |= {"seconds": self.seconds, "passed": self.passed}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)


def run_part(report: Report, name: str, scale: Scale, left: float, patience: float) -> None:
    """The records of a part, until its limit, times `patience`, or that of all."""
    part, limit = PARTS[name]
    limit = min(patience * limit, left)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        for record in part(scale):
            report.add({"part": name, **record})
    except Late:
        report.add({"name": name, "skipped": f"the rest, after {limit:.0f} s"})
    except Exception as error:
        report.add({"name": name, "passed": False, "error": repr(error)[:1000]})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def be_late(*_: Any) -> None:
    raise Late


def end_for_good(report: Report) -> None:
    """From a thread: what computes on the device may never come back to Python."""
    report.content["records"].append({"name": "the run", "passed": False, "error": "it hung"})
    report.write()
    os._exit(3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=pathlib.Path, help="the JSON file to write")
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE, help="for all parts, in seconds"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, on any CPU?")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--first-call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    if options.first_call:
        first_calls.first_call(options.first_call, scale)
        return 0
    report = Report(options.output, scale)
    device = report.content["device"]
    print(f"{device['kind']} ({device['platform']}), jax {jax.__version__}", flush=True)
    watchdog = threading.Timer(options.deadline + GRACE, end_for_good, (report,))
    watchdog.daemon = True
    watchdog.start()
    signal.signal(signal.SIGALRM, be_late)
    for name in options.parts:
        left = options.deadline - report.seconds
        if left <= 1:
            report.add({"name": name, "skipped": "out of time"})
        else:
            run_part(report, name, scale, left, max(1.0, options.deadline / DEADLINE))
    watchdog.cancel()
    report.content["ended"] = True
    report.write()
    print(f"{'passed' if report.passed else 'FAILED'}; wrote {options.output}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
