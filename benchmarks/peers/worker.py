"""Contestants run in processes of their own, so that one that hangs or dies harms no other.

One process for each library and precision, kept alive from row to row, all in the process group
of the command; only one computes at a time.
"""

import importlib
import importlib.util
import multiprocessing
import pathlib
import statistics
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import psutil

from . import extras
from .contestants import JAX_FAMILIES, PACKAGES, Read, REGISTRY, Run
from .problems import Problem


class Attempt(NamedTuple):
    """One timed run of a contestant, or why there is none."""

    setting: float
    seconds: float
    f: np.ndarray | None = None
    g: np.ndarray | None = None
    iterations: int | None = None
    memory: int | None = None  # bytes in use at the peak, beyond those before the run
    failure: str = ""  # empty unless it raised, or "timeout"


class Prepare(NamedTuple):
    """The next runs are of this problem."""

    problem: Problem


class Solve(NamedTuple):
    """Run a contestant at a setting."""

    contestant: str
    setting: float


class Extra(NamedTuple):
    """Run a function of `extras`."""

    function: str
    arguments: dict[str, Any]


def serve(connection: Connection, family: str, dtype: str) -> None:
    """What a worker does until its pipe is closed."""
    # What goes wrong is seen in the potentials.
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    if family in JAX_FAMILIES:
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
    importlib.import_module(PACKAGES[family][1])
    connection.send("ready")
    problem: Problem | None = None
    prepared: dict[str, tuple[Run, Read]] = {}
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if isinstance(request, Prepare):
            problem = request.problem
            prepared.clear()
            continue
        try:
            if isinstance(request, Extra):
                reply: Any = getattr(extras, request.function)(**request.arguments)
            else:
                assert problem is not None
                contestant = REGISTRY[request.contestant]
                if contestant.name not in prepared:
                    prepared[contestant.name] = contestant.make(problem)
                run, read = prepared[contestant.name]
                if contestant.compiles_counts:
                    run(request.setting)
                reply = attempt(run, read, request.setting)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            first_line = str(error).strip().splitlines() or [""]
            reply = Attempt(0.0, 0.0, failure=f"{type(error).__name__}: {first_line[0][:200]}")
        connection.send(reply)


# The first call after a pause waits for the processor to wake up, which can take as long as a small
# solve: calls shorter than this, in seconds, are made so many times at once, as in a training loop.
SHORT, BURST = 0.02, 5


def attempt(run: Run, read: Read, setting: float) -> Attempt:
    process = psutil.Process()
    reset_peak()
    before = process.memory_info().rss
    output, seconds = timed(run, setting)
    memory = max(0, peak(process) - before)
    if seconds < SHORT:
        seconds = statistics.median(timed(run, setting)[1] for _ in range(BURST))
    answer = read(output)
    return Attempt(setting, seconds, answer.f, answer.g, answer.iterations, memory)


def timed(run: Run, setting: float) -> tuple[Any, float]:
    begin = time.perf_counter()
    output = run(setting)
    return output, time.perf_counter() - begin


def reset_peak() -> None:
    """Starts the kernel's account of the largest resident memory anew, where it keeps one."""
    control = pathlib.Path("/proc/self/clear_refs")
    if control.exists():
        control.write_text("5")


def peak(process: psutil.Process) -> int:
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return process.memory_info().rss


# A process must have imported its library after this, in seconds.
START_LIMIT = 120.0


# Thread pools spin for a while after their work: those of the judge and of other workers.
SPIN, SPIN_ELSEWHERE = 0.03, 0.15
_last: list["Worker"] = []


def settle(worker: "Worker") -> None:
    """Waits until the threads of whatever ran before are idle, so that they take no time of the
    next run."""
    time.sleep(SPIN if _last[-1:] == [worker] else SPIN_ELSEWHERE)
    _last[:] = [worker]


class Worker:
    """A process that serves one library in one precision, started again when it had to be ended.

    `warm` is what its present process has compiled: names of contestants and shapes.
    """

    def __init__(self, family: str, dtype: str):
        self.family, self.dtype = family, dtype
        self.process: Any = None
        self.pipe: Connection | None = None
        self.problem: Problem | None = None
        self.warm: set[tuple[str, tuple[int, ...]]] = set()

    def prepare(self, problem: Problem) -> None:
        self.problem = problem
        if self.pipe is not None:
            self.pipe.send(Prepare(problem))

    def connected(self) -> Connection:
        """The pipe to the process, which has imported its library."""
        if self.pipe is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(
                target=serve, args=(other, self.family, self.dtype), daemon=True
            )
            self.process.start()
            other.close()
            if not self.pipe.poll(START_LIMIT) or self.pipe.recv() != "ready":
                raise RuntimeError(f"the process of {self.family} did not start")
            if self.problem is not None:
                self.pipe.send(Prepare(self.problem))
        return self.pipe

    def ask(self, request: Solve | Extra, limit: float) -> Any:
        """The reply, or an `Attempt` that says "timeout" after `limit` seconds."""
        pipe = self.connected()
        settle(self)
        pipe.send(request)
        setting = request.setting if isinstance(request, Solve) else 0.0
        if not pipe.poll(limit):
            self.end()
            return Attempt(setting, limit, failure="timeout")
        try:
            return pipe.recv()
        except EOFError:
            code = self.process.exitcode
            self.end()
            return Attempt(setting, 0.0, failure=f"the process ended ({code})")

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process, self.pipe = None, None
        self.warm.clear()


class Workers:
    """The workers of a run, each started at its first use."""

    def __init__(self):
        self.workers: dict[tuple[str, str], Worker] = {}

    def get(self, family: str, dtype: str) -> Worker:
        return self.workers.setdefault((family, dtype), Worker(family, dtype))

    def end(self) -> None:
        for worker in self.workers.values():
            worker.end()


def installed(family: str) -> bool:
    return importlib.util.find_spec(PACKAGES[family][1]) is not None
