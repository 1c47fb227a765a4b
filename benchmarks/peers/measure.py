"""What is right is computed here, in float64 by NumPy; and the search for the loosest setting."""

import math
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .contestants import Contestant, JAX_FAMILIES
from .problems import Problem, squared_distances
from .worker import Attempt, Solve, Worker


Cell = dict[str, Any]

# A first call compiles; it may take this long, in seconds.
COMPILE_LIMIT = 60.0


class Check(NamedTuple):
    """The L1 errors of both marginals, relative to the mass, and the value of the dual."""

    error: float
    value: float


class Judge:
    """Checks potentials against a problem; for a batch, the worst error and the mean value."""

    def __init__(self, problem: Problem):
        self.batch = problem.x.ndim == 3
        arrays = problem if self.batch else (array[None] for array in problem)
        self.members = [Problem(*parts) for parts in zip(*arrays, strict=True)]
        self.costs = [squared_distances(member.x, member.y) for member in self.members]

    def check(self, f: np.ndarray, g: np.ndarray) -> Check:
        pairs = zip(f, g, strict=True) if self.batch else [(f, g)]
        checks = [
            check(member, cost, *pair)
            for member, cost, pair in zip(self.members, self.costs, pairs, strict=True)
        ]
        errors = [one.error for one in checks]
        worst = math.nan if any(map(math.isnan, errors)) else max(errors)
        return Check(worst, float(np.mean([one.value for one in checks])))


def check(problem: Problem, cost: np.ndarray, f: np.ndarray, g: np.ndarray) -> Check:
    """Blocks of rows at a time; NaN if a potential is not finite."""
    a, b, epsilon = problem.a, problem.b, float(problem.epsilon)
    if not (np.all(np.isfinite(f)) and np.all(np.isfinite(g))):
        return Check(math.nan, math.nan)
    row, column = np.empty(len(a)), np.zeros(len(b))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(a), 512):
            part = slice(start, start + 512)
            density = np.exp((f[part, None] + g[None, :] - cost[part]) / epsilon)
            row[part] = a[part] * (density @ b)
            column += (a[part] @ density) * b
        mass = a.sum()
        error = (np.abs(row - a).sum() + np.abs(column - b).sum()) / mass
        value = a @ f + b @ g - epsilon * (row.sum() - mass * b.sum())
    if not np.isfinite(error):
        return Check(math.inf, math.nan)
    return Check(float(error), float(value))


def tolerance(target: float, index: int) -> float:
    """The grid of tolerances: by factors of two, from the target."""
    return target * 2.0**-index


def count(target: float, index: int) -> float:
    """The grid of numbers of iterations: multiples of ten, at last by factors of 1.2."""
    return 10.0 * max(1 + index, round(1.2**index))


class Search:
    """Looks for the loosest setting of one contestant whose error meets the target.

    The setting is that of an index on a grid, tighter as the index grows. From a guess it jumps
    towards the target, and halves the bracket once it has one.
    """

    def __init__(self, contestant: Contestant, target: float, guess: int):
        self.counts, self.target = contestant.counts, target
        self.index = max(guess, 0) if self.counts else guess
        self.failing: int | None = None
        self.passing: int | None = None
        self.least_jump = 1

    @property
    def setting(self) -> float:
        return (count if self.counts else tolerance)(self.target, self.index)

    def next(self, error: float) -> bool:
        """Moves on after an error at the current setting; false when the search is over."""
        passed = error <= self.target
        ratio = error / self.target if math.isfinite(error) and error > 0 else 1.0
        if passed:
            self.passing = self.index
        else:
            self.failing = self.index
        if self.failing is not None and self.passing is not None:
            self.index = (self.failing + self.passing) // 2
            return self.passing - self.failing > 1
        # Six indices of the grid of counts are a factor of three.
        jump = 6 if self.counts else max(self.least_jump, round(abs(math.log2(ratio))))
        self.least_jump *= 2
        self.index += -jump if passed else jump
        if self.counts and self.index < 0:
            self.index = 0
            return self.passing != 0
        # Beyond these, nothing changes any more.
        return self.index <= (60 if self.counts else 20) and self.index >= -12


class Entry:
    """A contestant in a row: what it was asked, and what came of it."""

    def __init__(self, contestant: Contestant, worker: Worker, judge: Judge, target: float):
        self.contestant, self.worker, self.judge, self.target = contestant, worker, judge, target
        self.attempts: list[dict[str, Any]] = []
        self.best: Attempt | None = None  # at the loosest setting that met the target
        self.best_index = 0
        self.best_check = Check(math.nan, math.nan)
        self.samples: list[float] = []
        self.turns = 0
        self.first_call: float | None = None
        self.warm: float | None = None
        self.failure = ""

    def warm_up(self, shape: tuple[int, ...], first: bool) -> bool:
        """Compiles, by a run at the loosest setting; twice if that tells how long it takes."""
        key = self.contestant.name, shape
        if self.contestant.family not in JAX_FAMILIES or key in self.worker.warm:
            return True
        request = Solve(self.contestant.name, 10.0 if self.contestant.counts else 1e30)
        reply = self.worker.ask(request, COMPILE_LIMIT)
        if not reply.failure and first:
            self.first_call = reply.seconds
            reply = self.worker.ask(request, COMPILE_LIMIT)
            self.warm = reply.seconds
        self.failure = reply.failure
        if not reply.failure:
            self.worker.warm.add(key)
        return not reply.failure

    def search(self, guess: int, limit: float, patience: float) -> None:
        """Finds the loosest setting, with `limit` seconds for a run and `patience` for all."""
        search = Search(self.contestant, self.target, guess)
        self.worker.connected()  # importing a library is no part of a search
        end = time.perf_counter() + patience
        for _ in range(14):
            index = search.index
            found = self._attempt(search.setting, limit)
            if found is None:
                if self.best is None and self.failure == "timeout":
                    self._settle_for_less(index, limit / 4)
                return
            attempt, checked = found
            if checked.error <= self.target:
                self._accept(index, attempt, checked)
            if not math.isfinite(checked.error) or not search.next(checked.error):
                return
            if time.perf_counter() > end:
                self.failure = "timeout" if self.best is None else ""
                return

    def _settle_for_less(self, index: int, limit: float) -> None:
        """After a run that took too long, tries a looser setting: the guess may have been too
        tight, and if not, this tells how near the contestant comes."""
        looser = index - 5
        if self.contestant.counts and looser < 0:
            return
        found = self._attempt(self._setting(looser), limit)
        if found is not None and found[1].error <= self.target:
            self._accept(looser, *found)
        elif self.best is None:
            self.failure = "timeout"

    def _accept(self, index: int, attempt: Attempt, checked: Check) -> None:
        self.best, self.best_index, self.best_check = attempt, index, checked
        self.samples = [attempt.seconds]
        self.failure = ""

    def _setting(self, index: int) -> float:
        return (count if self.contestant.counts else tolerance)(self.target, index)

    def _attempt(self, setting: float, limit: float) -> tuple[Attempt, Check] | None:
        if self.contestant.compiles_counts:
            limit += COMPILE_LIMIT
        reply = self.worker.ask(Solve(self.contestant.name, setting), limit)
        record = {"setting": setting, "seconds": reply.seconds}
        if reply.failure:
            self.failure = reply.failure if self.best is None else ""
            self.attempts.append({**record, "failure": reply.failure})
            return None
        checked = self.judge.check(reply.f, reply.g)
        self.attempts.append({**record, "error": checked.error, "iterations": reply.iterations})
        return reply, checked

    def ladder(self, limit: float) -> None:
        """Runs at looser settings too, for the picture of time against accuracy."""
        for index in range(-9, 0, 3):
            looser = self.best_index + index
            if self.contestant.counts and looser < 0:
                continue
            self._attempt(self._setting(looser), limit)

    def repeat(self) -> None:
        """More samples at the setting found: one, or several of a short run."""
        if self.best is None:
            return
        samples = []
        for _ in range(min(5, 1 + int(0.1 / (self.best.seconds + 1e-3)))):
            reply = self.worker.ask(Solve(self.contestant.name, self.best.setting), 60.0)
            if not reply.failure:
                samples.append(reply.seconds)
        # A short run of the search came right after another kind of work, and does not count.
        first = self.turns == 0 and self.best.seconds < 1 and bool(samples)
        self.samples = samples if first else self.samples + samples
        self.turns += 1

    def cell(self) -> Cell:
        """What goes into the report."""
        cell: Cell = {
            "contestant": self.contestant.name,
            "family": self.contestant.family,
            "option": self.contestant.option,
            "attempts": self.attempts,
        }
        if self.first_call is not None and self.warm is not None:
            cell |= {"first_call": self.first_call, "compile": self.first_call - self.warm}
        if self.best is None:
            return cell | self._verdict()
        return cell | {
            "status": "reached",
            "seconds": statistics.median(self.samples),
            "samples": self.samples,
            "setting": self.best.setting,
            "index": self.best_index,
            "error": self.best_check.error,
            "value": self.best_check.value,
            "iterations": self.best.iterations,
            "memory": self.best.memory,
        }

    def _verdict(self) -> Cell:
        """Why the target was not reached, and how near it came."""
        spent = max((one["seconds"] for one in self.attempts), default=0.0)
        errors = [one["error"] for one in self.attempts if "error" in one]
        best = min((error for error in errors if not math.isnan(error)), default=None)
        status = "not reached" if self.failure == "timeout" else "stuck"
        if self.failure and self.failure != "timeout":
            status = "failed"
        elif errors and best is None:
            status = "garbage"
        return {"status": status, "reason": self.failure, "spent": spent, "best_error": best}


def in_turns(entries: list[Entry], repeats: int, patience: float) -> Iterator[Entry]:
    """The entries that deserve more samples, in turns, so that drifts of the machine meet all.

    One that takes long is not repeated, nor one that is far slower than another option of its
    library, which is what counts.
    """
    fastest: dict[str, float] = {}
    for entry in entries:
        if entry.best is not None:
            family = entry.contestant.family
            fastest[family] = min(entry.best.seconds, fastest.get(family, math.inf))
    end = time.perf_counter() + patience
    for _ in range(repeats):
        for entry in entries:
            if time.perf_counter() > end:
                return
            if entry.best is None or entry.best.seconds > 10:
                continue
            if entry.best.seconds >= 1 and len(entry.samples) >= repeats:
                continue
            if entry.best.seconds <= 2 * fastest[entry.contestant.family] + 0.05:
                yield entry
