"""What the measurements say: the table, the summary, and the pictures."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from .measure import Cell


Record = dict[str, Any]

OURS = "otjax: default"
DIRECT = "OTT-JAX"
OTHERS = ("POT", "GeomLoss", "mdot-tnt", "regot")


class Best(NamedTuple):
    """The best of a family in a row; without an option that reached the target, a bound."""

    seconds: float | None
    option: str
    bound: float | None  # no option reached the target in this time
    why: str  # if none reached it


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e3:.2g} ms"


def best_of(cells: Iterable[Cell], families: tuple[str, ...]) -> Best:
    """The fastest option that reached the target."""
    cells = [cell for cell in cells if cell["family"] in families]
    reached = [cell for cell in cells if cell["status"] == "reached"]
    if reached:
        winner = min(reached, key=lambda cell: cell["seconds"])
        label = winner["option"] if len(families) == 1 else winner["contestant"]
        return Best(winner["seconds"], label, None, "")
    if not cells:
        return Best(None, "", None, "")
    slow = [cell["spent"] for cell in cells if cell["status"] == "not reached" and cell["spent"]]
    why = ", ".join(sorted({cell["status"] for cell in cells}))
    return Best(None, "", min(slow, default=None), why)


def ours(record: Record) -> Cell | None:
    """The default of otjax in a row, if it reached the target."""
    for cell in record["cells"]:
        if cell["contestant"] == OURS and cell["status"] == "reached":
            return cell
    return None


def ratio_text(best: Best, own: Cell | None) -> str:
    """A family's entry in the table: its time over that of otjax, its time, its option."""
    if best.seconds is not None:
        ratio = f"{best.seconds / own['seconds']:.3g}x, " if own else ""
        return f"{ratio}{time_text(best.seconds)} ({best.option})"
    if best.bound is not None:
        ratio = f"> {best.bound / own['seconds']:.2g}x, " if own else ""
        return f"{ratio}not in {time_text(best.bound)}"
    return best.why or "-"


def compact_table(records: list[Record]) -> str:
    """One line for each row, one column for each library."""
    families = (DIRECT, *OTHERS)
    heads = ("data", "n x m", "d", "epsilon", "dtype", "otjax", "steps", "error", *families)
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for record in records:
        row, own = record["row"], ours(record)
        if own is None:
            mine = next((cell for cell in record["cells"] if cell["contestant"] == OURS), None)
            entries = [cell_verdict(mine) if mine else "-", "", ""]
        else:
            entries = [time_text(own["seconds"]), str(own["iterations"]), f"{own['error']:.1e}"]
        shape = " x ".join(map(str, record["shape"]))
        keys = [row["data"], shape, row["d"], row["epsilon"], row["dtype"]]
        peers = [ratio_text(best_of(record["cells"], (family,)), own) for family in families]
        lines.append("| " + " | ".join([*map(str, keys), *entries, *peers]) + " |")
    return "\n".join(lines)


def cell_verdict(cell: Cell) -> str:
    """Why a contestant has no time."""
    if cell["status"] in ("failed", "garbage"):
        return f"{cell['status']}: {cell['reason']}" if cell["reason"] else "NaN or infinity"
    if cell["status"] == "stuck":
        return f"stops at an error of {cell['best_error']:.1e}"
    if cell["status"] == "not reached":
        near = f" (error {cell['best_error']:.1e})" if cell["best_error"] is not None else ""
        return f"not in {time_text(cell['spent'])}{near}"
    return cell["status"] + (f": {cell['reason']}" if cell.get("reason") else "")


def full_table(record: Record) -> str:
    """Every contestant of a row."""
    heads = (
        "contestant", "time", "over otjax", "error", "iterations", "first call", "memory", "value"
    )  # fmt: skip
    lines = [f"### {record['name']}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * 8]
    own = ours(record)
    for cell in record["cells"]:
        first = time_text(cell["first_call"]) if "first_call" in cell else ""
        if cell["status"] != "reached":
            entries = [cell_verdict(cell), "", "", "", first, "", ""]
        else:
            memory = "" if cell["memory"] is None else f"{cell['memory'] / 2**20:.0f} MiB"
            value = f"{cell['value']:.6g}" + (" (wrong)" if cell.get("wrong") else "")
            entries = [
                time_text(cell["seconds"]),
                f"{cell['seconds'] / own['seconds']:.3g}x" if own else "",
                f"{cell['error']:.1e}",
                str(cell["iterations"]),
                first,
                memory,
                value,
            ]
        lines.append("| " + " | ".join([cell["contestant"], *entries]) + " |")
    return "\n".join([*lines, ""])


def mark_wrong_values(cells: list[Cell]) -> None:
    """Marks values that are not the optimum, which is the largest value of the dual."""
    values = [cell["value"] for cell in cells if cell["status"] == "reached"]
    for cell in cells:
        if cell["status"] == "reached":
            cell["wrong"] = not abs(cell["value"] - max(values)) <= 1e-2 * abs(max(values))


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
    singles = [record for record in report["rows"] if record["row"]["data"] != "batch"]
    batches = [record for record in report["rows"] if record["row"]["data"] == "batch"]
    lines = []
    for dtype in ("float64", "float32"):
        rows = [record for record in singles if record["row"]["dtype"] == dtype]
        lines.append(f"OTT-JAX at its best over otjax, {dtype}: {ratios(rows, (DIRECT,)).text()}")
    for dtype in ("float64", "float32"):
        rows = [record for record in singles if record["row"]["dtype"] == dtype]
        lines.append(
            f"Fastest of POT, GeomLoss, mdot-tnt and regot over otjax, {dtype}: "
            f"{ratios(rows, OTHERS).text()}"
        )
    lines.append(f"Batches, OTT-JAX under vmap over otjax: {ratios(batches, (DIRECT,)).text()}")
    lines.append(own_choice(singles))
    missed = [record["name"] for record in report["rows"] if ours(record) is None]
    if missed:
        lines.append(f"otjax did not reach the target in {len(missed)} rows: {'; '.join(missed)}")
    lines += first_calls(singles)
    lines += unrest(report["rows"])
    for extra in report.get("extras", []):
        lines.append(extra_line(extra))
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


def first_calls(records: list[Record]) -> list[str]:
    """Times of the first call, compilation included, of otjax and of OTT-JAX."""
    pairs = []
    for record in records:
        first = {cell["contestant"]: cell.get("first_call") for cell in record["cells"]}
        mine, theirs = first.get(OURS), first.get("OTT-JAX: default")
        if mine and theirs:
            pairs.append((mine / theirs, mine, theirs))
    if not pairs:
        return []
    mean = math.exp(sum(math.log(ratio) for ratio, _, _ in pairs) / len(pairs))
    ratio, mine, theirs = max(pairs)
    return [
        f"First call at a loose tolerance, otjax over OTT-JAX (default): geometric mean "
        f"{mean:.3g}x; at most {ratio:.3g}x ({time_text(mine)} against {time_text(theirs)}); "
        f"{len(pairs)} shapes"
    ]


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
        "## Rows",
        "",
        compact_table(report["rows"]),
        "",
    ]
    return "\n".join(lines)
