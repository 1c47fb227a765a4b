"""What the measurements say: ratios, their summary, and the page."""

import math
import statistics
from typing import NamedTuple

from .tables import (
    best_of,
    compact_table,
    DIRECT,
    first_call_section,
    first_call_times,
    first_calls,
    OTHERS,
    ours,
    Record,
    time_text,
)


class Ratios(NamedTuple):
    """Ratios over rows, smallest first, with the rows' names; and what is not among them."""

    known: list[tuple[float, str]]
    bounds: list[tuple[float, str]]  # at least so much
    absent: int  # rows where the peer failed or was not tried, so that there is no ratio

    def text(self) -> str:
        both = sorted([*self.known, *self.bounds])
        if not both:
            return "no row"
        mean = math.exp(sum(math.log(ratio) for ratio, _ in both) / len(both))
        least, where = both[0]
        notes = [f"{len(both)} rows", f"least {least:.3g}x ({where})"]
        if self.bounds:
            notes.append(f"{len(self.bounds)} of them lower bounds")
        if self.absent:
            notes.append(f"{self.absent} more rows where the peer gives no answer are left out")
        return f"geometric mean {mean:.3g}x; " + "; ".join(notes)


def ratios(records: list[Record], families: tuple[str, ...]) -> Ratios:
    """The time of the best of these libraries over that of otjax, row by row."""
    known, bounds, absent = [], [], 0
    for record in records:
        own, best = ours(record), best_of(record["cells"], families)
        if own is None:
            continue
        if best.seconds is not None:
            known.append((best.seconds / own["seconds"], record["name"]))
        elif best.bound is not None:
            bounds.append((best.bound / own["seconds"], record["name"]))
        else:
            absent += bool(best.why)
    return Ratios(sorted(known), sorted(bounds), absent)


def summary(report: Record) -> list[str]:
    """The lines that answer the questions, as measured."""
    singles, clusters, batches = groups(report["rows"])
    others = f"fastest of {', '.join(OTHERS[:-1])} and {OTHERS[-1]}"
    lines = [
        *by_dtype(singles, (DIRECT,), "OTT-JAX at its best over otjax"),
        *by_dtype(singles, OTHERS, f"The {others} over otjax"),
        *by_dtype(clusters, (DIRECT,), "Clusters, OTT-JAX at its best over otjax"),
        *by_dtype(clusters, OTHERS, f"Clusters, the {others} over otjax"),
        f"Batches, OTT-JAX under vmap over otjax: {ratios(batches, (DIRECT,)).text()}",
        own_choice([*singles, *clusters]),
    ]
    missed = [record["name"] for record in report["rows"] if ours(record) is None]
    if missed:
        lines.append(f"otjax did not reach the target in {len(missed)} rows: {'; '.join(missed)}")
    extras = report.get("extras", [])
    lines += first_call_summary(extras)
    lines += unrest(report["rows"])
    lines += [extra_line(extra) for extra in extras if extra["kind"] != "first call"]
    return lines


def groups(records: list[Record]) -> tuple[list[Record], list[Record], list[Record]]:
    """Single problems, those of mixtures apart from all others, and batches."""
    singles, clusters, batches = [], [], []
    for record in records:
        apart = {"clusters": clusters, "batch": batches}
        apart.get(record["row"]["data"], singles).append(record)
    return singles, clusters, batches


def by_dtype(records: list[Record], families: tuple[str, ...], title: str) -> list[str]:
    """The ratios to the best of these libraries, a line for each dtype that has a row."""
    lines = []
    for dtype in ("float64", "float32"):
        rows = [record for record in records if record["row"]["dtype"] == dtype]
        lines += [f"{title}, {dtype}: {ratios(rows, families).text()}"] if rows else []
    return lines


def own_choice(records: list[Record]) -> str:
    """How far the default is from the best of otjax's own solvers."""
    worst = []
    for record in records:
        own, best = ours(record), best_of(record["cells"], ("otjax",))
        if own is not None and best.seconds is not None:
            worst.append((own["seconds"] / best.seconds, f"{best.option}, {record['name']}"))
    if not worst:
        return "otjax's default over the best of its solvers: no row"
    largest, where = max(worst)
    beyond = sum(ratio > 1.3 for ratio, _ in worst)
    return (
        f"otjax's default over the best of its solvers: at most {largest:.3g}x ({where}); beyond "
        f"1.3x in {beyond} of {len(worst)} rows"
    )


def first_call_summary(extras: list[Record]) -> list[str]:
    """A line for each operation: the ratios over all rows."""
    lines = []
    for operation in dict.fromkeys(extra["operation"] for extra in first_calls(extras)):
        times = [
            first_call_times(extra)
            for extra in first_calls(extras)
            if extra["operation"] == operation
        ]
        mean = math.exp(statistics.mean(math.log(mine / theirs) for mine, theirs in times))
        mine, theirs = max(times, key=lambda pair: pair[0] / pair[1])
        lines.append(
            f"First call in a process of its own, {operation}, otjax over OTT-JAX: geometric mean "
            f"{mean:.3g}x; at most {mine / theirs:.3g}x ({time_text(mine)} against "
            f"{time_text(theirs)}); {len(times)} programs"
        )
    return lines


def unrest(records: list[Record]) -> list[str]:
    """Whether the machine was quiet: how many times differ much between their samples."""
    spreads = [
        max(cell["samples"]) / min(cell["samples"])
        for record in records
        for cell in record["cells"]
        if cell["status"] == "reached" and len(cell.get("samples", [])) > 1
    ]
    if not spreads:
        return []
    wide = sum(spread > 1.5 for spread in spreads)
    return [f"{wide} of {len(spreads)} times differ by more than 1.5x between their samples"]


def extra_line(extra: Record) -> str:
    if extra["kind"] == "gradient":
        return (
            f"Value and gradient over value, {extra['name']}: {extra['ratio']:.3g}x "
            f"({time_text(extra['both'])} against {time_text(extra['value'])})"
        )
    mine, theirs = extra["otjax"], extra["POT"]
    for name, found in (("otjax", mine), ("POT's emd", theirs)):
        if "failure" in found:
            return f"{extra['name']}: {name}: {found['failure']}"
    off = abs(mine["cost"] - theirs["cost"]) / theirs["cost"]
    proven = (mine["cost"] - mine["lower"]) / mine["cost"]
    missed = "" if proven <= extra["gap"] and off <= extra["gap"] else ": MISSED"
    return (
        f"{extra['name']}: POT's emd over otjax {theirs['seconds'] / mine['seconds']:.3g}x "
        f"({time_text(theirs['seconds'])} against {time_text(mine['seconds'])}); gap proven "
        f"{proven:.1e}, difference of the costs {off:.1e}{missed}"
    )


def document(report: Record) -> str:
    """The page that shows it all."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# otjax against its peers",
        "",
        "Made by `benchmarks/against_peers.py`; times as measured, losses included.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} "
        f"GiB, {machine['system']}; {machine['date']}. {versions}.",
        "",
        "Each contestant takes points, masses and epsilon to potentials; the matrix of costs is "
        "part of the time, compilation is not. It runs at the loosest setting at which the L1 "
        "error of both marginals together, made afresh in float64 from its potentials, is at most "
        "1e-3 (float32) or 1e-6 (float64). Times are medians of a few runs, taken in turns. For "
        "each library the fastest of its options counts; `4.2x, 1.3 s` is its time over that of "
        "`otjax.solve` with the default solver, and its time. `not in 20 s`: no option reached "
        "the error in that time; `garbage`: potentials that are not finite; `stuck`: "
        "it ends at a larger error whatever the setting; `not tried`: failed, "
        "or far slower than a sibling, at a larger epsilon or a smaller size. epsilon is in units "
        "of the mean cost.",
        "",
        "## Summary",
        "",
        *(f"- {line}" for line in summary(report)),
        "",
        *first_call_section(report.get("extras", [])),
        "## Rows",
        "",
        compact_table(report["rows"]),
        "",
    ]
    return "\n".join(lines)
