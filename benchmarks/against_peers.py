"""otjax beside its peers, on the same inputs, at matched accuracy, into JSON, tables and pictures.

    python benchmarks/against_peers.py [--quick] [--budget-minutes M] [--resume] ...

What is measured, and how, is in `README.md`. Rows come in order of what they tell; results are
written after each, so that nothing is lost when the run ends early, and `--resume` goes on.
"""

import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import re
import sys
import time
from typing import Any, Literal

import psutil
import tyro
from peers import pictures, report, tables
from peers.contestants import ALL, Contestant, enters, PACKAGES
from peers.first_calls import LIBRARIES, OPERATIONS
from peers.measure import COMPILE_LIMIT, Entry, in_turns, Judge
from peers.problems import load, Row, rows, Sources, SYNTHETIC
from peers.worker import Extra, installed, Worker, Workers


@dataclasses.dataclass(frozen=True)
class Options:
    """Rows are filtered by their parts; every filter is off by default."""

    output: pathlib.Path = pathlib.Path("benchmarks/results/peers")
    """The folder of results."""
    docs: pathlib.Path | None = None
    """Write the page there too, for instance docs/benchmarks.md."""
    resume: bool = False
    """Keep the rows that the output folder has."""
    quick: bool = False
    """A few small rows, within three minutes."""
    profile: bool = False
    """Tell instead where otjax's time goes, row by row."""
    budget_minutes: float = math.inf
    """No row begins after this."""
    limit: float = 20.0
    """No run of a peer may take longer, in seconds."""
    give_up: float = 50.0
    """Nor longer than this many times the time of otjax, or three seconds."""
    patience: dict[str, float] = dataclasses.field(default_factory=dict)
    """Families that get other limits than these two, such as OTT-JAX 60, in seconds."""
    repeats: int = 3
    """Samples of a time, where one takes less than ten seconds."""
    data: tuple[str, ...] = ()
    """Such as normal, clusters, batch, digits, "DOTmark 32"."""
    sizes: tuple[int, ...] = ()
    """Numbers of points of the synthetic problems."""
    dimensions: tuple[int, ...] = ()
    epsilons: tuple[float, ...] = ()
    dtypes: tuple[Literal["float32", "float64"], ...] = ()
    peers: tuple[str, ...] = ()
    """Families or contestants, such as OTT-JAX or "POT: sinkhorn"; otjax always takes part."""
    extras: bool = True
    """Gradients and unregularised transport as well."""
    first_calls: bool = True
    """First calls too, each in a process of its own, before the rows."""
    dotmark: pathlib.Path | None = None
    """A folder of DOTmark images."""
    mnist: pathlib.Path | None = None
    """MNIST's test images, IDX gz."""
    shapes: pathlib.Path | None = None
    """A folder with stanford-bunny.obj and spot.obj."""


def chosen_rows(options: Options) -> list[Row]:
    sources = Sources(options.dotmark, options.mnist, options.shapes)

    def wanted(row: Row) -> bool:
        return all(
            not allowed or value in allowed
            for value, allowed in (
                (row.data, options.data or (tuple(SYNTHETIC) if options.sizes else ())),
                (row.d, options.dimensions),
                (row.epsilon, options.epsilons),
                (row.dtype, options.dtypes),
            )
        )

    return [row for row in rows(sources, options.sizes) if wanted(row)]


def quickly(options: Options) -> Options:
    return dataclasses.replace(
        options,
        data=options.data or tuple(SYNTHETIC),
        sizes=options.sizes or (256,),
        dimensions=options.dimensions or (2,),
        epsilons=options.epsilons or (0.01,),
        dtypes=options.dtypes or ("float32",),
        extras=False,
        limit=min(options.limit, 3.0),
        give_up=min(options.give_up, 30.0),
        budget_minutes=min(options.budget_minutes, 2.0),
    )


def machine() -> dict[str, Any]:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    names = ["jax", "numpy", "torch", *(package for package, _ in PACKAGES.values())]
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }


class Failures:
    """Where contestants missed the target, or were far slower than a sibling: at a smaller epsilon
    or a larger size they would be again."""

    def __init__(self):
        self.seen: list[tuple[str, Row]] = []

    def add(self, contestant: str, row: Row) -> None:
        self.seen.append((contestant, row))

    def excuse(self, contestant: str, row: Row) -> str:
        for name, failed in self.seen:
            harder = failed.n <= row.n and failed.epsilon >= row.epsilon
            if name == contestant and failed.series == row.series and harder:
                return f"n = {failed.n}, epsilon = {failed.epsilon}"
        return ""


class Race:
    """A run of the benchmark."""

    def __init__(self, options: Options, deadline: float):
        self.options, self.deadline = options, deadline
        self.workers = Workers()
        self.failures = Failures()
        self.guesses: dict[tuple[str, str], int] = {}  # by contestant and dtype
        self.pace: dict[tuple[str, str], float] = {}  # the last time, to begin with the fastest
        self.first_calls: set[tuple[str, tuple[int, ...], str]] = set()

    def remember(self, records: list[dict[str, Any]]) -> None:
        """Takes over from an earlier run where contestants missed the target."""
        for record in records:
            for cell in record["cells"]:
                if cell.get("missed"):
                    self.failures.add(cell["contestant"], Row(**record["row"]))

    def contestants(self, row: Row) -> list[Contestant]:
        """Those that enter, otjax first, then of each family the fastest before."""
        wanted = self.options.peers
        names = [
            contestant
            for contestant in ALL
            if enters(contestant, row.data == "batch", row.dtype)
            and (
                contestant.family == "otjax"
                or not wanted
                or contestant.family in wanted
                or contestant.name in wanted
            )
        ]
        families = list(PACKAGES)
        return sorted(
            names,
            key=lambda one: (
                families.index(one.family),
                one.name != tables.OURS,
                self.pace.get((one.name, row.dtype), 0.0),
            ),
        )

    def row(self, row: Row) -> dict[str, Any]:
        """Measures one row."""
        options = self.options
        problem = load(row, Sources(options.dotmark, options.mnist, options.shapes))
        judge = Judge(problem)
        limit, family_best = options.limit, {}
        entries: list[Entry] = []
        cells: dict[str, dict[str, Any]] = {}
        prepared: set[str] = set()
        missed: set[str] = set()
        complete = True
        for contestant in self.contestants(row):
            cell = {"contestant": contestant.name, "family": contestant.family}
            cell |= {"option": contestant.option, "attempts": [], "spent": 0.0, "reason": ""}
            if time.perf_counter() > self.deadline and contestant.family != "otjax":
                cells[contestant.name] = cell | {"status": "not tried", "reason": "out of time"}
                complete = False
                continue
            if not installed(contestant.family):
                cells[contestant.name] = cell | {"status": "not installed"}
                continue
            excuse = self.failures.excuse(contestant.name, row)
            if excuse and contestant.family != "otjax":
                reason = f"out at {excuse}"
                cells[contestant.name] = cell | {"status": "not tried", "reason": reason}
                continue
            worker = self.workers.get(contestant.family, row.dtype)
            if contestant.family not in prepared:
                worker.prepare(problem)
                prepared.add(contestant.family)
            begin = time.perf_counter()
            entry = Entry(contestant, worker, judge, row.target)
            most = options.patience.get(contestant.family, limit)
            allowed = min(most, 3 * family_best.get(contestant.family, math.inf) + 1.0)
            self.search(entry, row, problem.x.shape, allowed)
            if entry.best is not None:
                seconds = entry.best.seconds
                self.pace[contestant.name, row.dtype] = seconds
                family_best[contestant.family] = min(
                    seconds, family_best.get(contestant.family, math.inf)
                )
                if contestant.name == tables.OURS:
                    limit = min(limit, max(3.0, options.give_up * seconds))
            else:
                self.pace[contestant.name, row.dtype] = math.inf
                # Stopped by the limit, by a failure, or for being so much slower than a sibling.
                self.failures.add(contestant.name, row)
                missed.add(contestant.name)
            entries.append(entry)
            progress(entry, time.perf_counter() - begin)
        for entry in in_turns(entries, options.repeats, 2 * options.limit):
            entry.repeat()
        for entry in entries:
            name = entry.contestant.name
            cells[name] = entry.cell() | {"missed": name in missed}
        listed = [cells[one.name] for one in ALL if one.name in cells]
        tables.mark_wrong_values(listed)
        shape = problem.x.shape[:-1] + problem.y.shape[-2:-1]
        return {
            "name": row.name,
            "row": row._asdict(),
            "shape": shape,
            "target": row.target,
            "complete": complete,
            "cells": listed,
        }

    def search(self, entry: Entry, row: Row, shape: tuple[int, ...], limit: float) -> None:
        name = entry.contestant.name
        first = (name, shape, row.dtype) not in self.first_calls
        if not entry.warm_up(shape, first):
            return
        self.first_calls.add((name, shape, row.dtype))
        entry.search(self.guesses.get((name, row.dtype), 0), limit, 2 * limit)
        if entry.best is not None:
            self.guesses[name, row.dtype] = entry.best_index
            if drawn(row):
                entry.ladder(limit)


def progress(entry: Entry, seconds: float) -> None:
    """One line for one contestant, with what its search took in all."""
    found = tables.time_text(entry.best.seconds) if entry.best else entry.failure or "missed"
    runs = len(entry.attempts)
    print(f"  {entry.contestant.name}: {found} ({runs} runs, {seconds:.1f} s)", flush=True)


def drawn(row: Row) -> bool:
    """Whether there is a picture of a row."""
    return row.data == "normal" and row.d == 2 and row.n == 1024 and row.epsilon in (0.01, 0.002)


# What is called first: its size hardly matters, dtype and dimension make other programs.
FIRST_CALLS = (
    Row("normal", 1024, 2, 0.05, "float32"),
    Row("normal", 1024, 64, 0.05, "float32"),
    Row("normal", 1024, 2, 0.05, "float64"),
)


def measure_first_calls(done: list[dict[str, Any]], rows: tuple[Row, ...], repeats: int) -> None:
    """First calls of otjax beside OTT-JAX, in turns, each in a process of its own."""
    names = {extra["name"] for extra in done}
    for row, operation in itertools.product(rows, OPERATIONS):
        name = f"{operation}, {row.name}"
        if name in names:
            continue
        record = {"kind": "first call", "name": name, "operation": operation, "row": row._asdict()}
        samples = {library: [] for library in LIBRARIES}
        for _, library in itertools.product(range(repeats), LIBRARIES):
            worker = Worker(library, row.dtype)
            arguments = {"library": library, "operation": operation, "row": row}
            reply = worker.ask(Extra("first_call", arguments), COMPILE_LIMIT)
            worker.end()
            if isinstance(reply, dict):
                samples[library].append(reply)
            else:
                record["failure"] = f"{library}: {reply.failure}"
        done.append({**record, "samples": samples})
        print(f"  first call: {tables.first_call_row(done[-1])}", flush=True)


def measure_extras(race: Race, done: list[dict[str, Any]], dtype: str, n: int) -> None:
    """Gradients, and unregularised transport, at one size."""
    names = {extra["name"] for extra in done}
    for epsilon in (0.05, 0.01):
        row = Row("normal", n, 2, epsilon, dtype)
        if row.name not in names:
            found = race.workers.get("otjax", dtype).ask(Extra("gradient", {"row": row}), 120)
            if isinstance(found, dict):
                done.append({"kind": "gradient", "name": row.name, "n": n, **found})


def measure_exact(race: Race, done: list[dict[str, Any]], n: int) -> None:
    """Unregularised transport to a gap against the network simplex."""
    names = {extra["name"] for extra in done}
    for d in (64, 2):
        name = f"unregularised, n = {n}, d = {d}, float64, gap 1e-4"
        late = time.perf_counter() > race.deadline
        if name in names or late or not installed("POT"):
            continue
        found = {}
        for library in ("otjax", "POT"):
            arguments = {"library": library, "n": n, "d": d, "dtype": "float64", "gap": 1e-4}
            reply = race.workers.get(library, "float64").ask(Extra("exact", arguments), 300)
            found[library] = reply if isinstance(reply, dict) else {"failure": reply.failure}
        done.append({"kind": "exact", "name": name, "n": n, "gap": 1e-4, **found})


def write(results: dict[str, Any], options: Options) -> None:
    """Everything so far, whole at every moment."""
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "results.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(folder / "results.json")
    rows = "\n".join(tables.full_table(record) for record in results["rows"])
    (folder / "rows.md").write_text(rows)
    (folder / "summary.md").write_text(report.document(results))
    if options.docs is not None:
        options.docs.write_text(report.document(results))


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    options = quickly(options) if options.quick else options
    chosen = chosen_rows(options)
    if not chosen:
        print("No row is left by the filters.", file=sys.stderr)
        return 2
    if options.profile:
        from peers import profile

        profile.show(chosen, Sources(options.dotmark, options.mnist, options.shapes))
        return 0
    begin = time.perf_counter()
    results: dict[str, Any] = {"machine": machine(), "rows": [], "extras": []}
    earlier = options.output / "results.json"
    if options.resume and earlier.exists():
        before = json.loads(earlier.read_text())
        results["rows"] = [record for record in before["rows"] if record["complete"]]
        results["extras"] = before["extras"]
    race = Race(options, begin + 60 * options.budget_minutes)
    race.remember(results["rows"])
    try:
        run(race, chosen, results)
    finally:
        race.workers.end()
    results["seconds"] = time.perf_counter() - begin
    write(results, options)
    print("\n".join(report.summary(results)))
    print(f"wrote {options.output}")
    return 0


def run(race: Race, chosen: list[Row], results: dict[str, Any]) -> None:
    options = race.options
    if options.first_calls and all(installed(library) for library in LIBRARIES):
        quick = (Row("normal", 256, 2, 0.05, "float32"),)
        rows, repeats = (quick, 1) if options.quick else (FIRST_CALLS, options.repeats)
        measure_first_calls(results["extras"], rows, repeats)
        write(results, options)
    done = {record["name"] for record in results["rows"]}
    for number, row in enumerate(chosen):
        if time.perf_counter() > race.deadline:
            print(f"out of time: {len(chosen) - number} rows left out")
            break
        if row.name not in done:
            record = race.row(row)
            results["rows"].append(record)
            if drawn(row):
                pictures.draw(record, options.output)
            write(results, options)
            print(tables.full_table(record), flush=True)
        # After the last row of a size comes what else is measured at that size.
        last = all(other.n != row.n or other.data != "normal" for other in chosen[number + 1 :])
        # At fewer points they are too short to be told from the time of a call.
        if options.extras and row.data == "normal" and last and row.n >= 1024:
            for dtype in ("float32", "float64"):
                measure_extras(race, results["extras"], dtype, row.n)
            measure_exact(race, results["extras"], row.n)
            write(results, options)


if __name__ == "__main__":
    sys.exit(main())
