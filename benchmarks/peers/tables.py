"""What was measured as tables: a line for each row, for each contestant of a row, for each first
call."""

import statistics
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


def first_calls(extras: list[Record]) -> list[Record]:
    """Those of the extras that are first calls which both libraries made."""
    return [extra for extra in extras if extra["kind"] == "first call" and "failure" not in extra]


def first_call_times(extra: Record) -> tuple[float, float]:
    """The first calls of otjax and of OTT-JAX, in seconds."""
    mine, theirs = (
        statistics.median(one["first"] for one in extra["samples"][library])
        for library in ("otjax", DIRECT)
    )
    return mine, theirs


def first_call_row(extra: Record) -> str:
    """A line of the table of first calls."""
    row = extra["row"]
    keys = (extra["operation"], f"{row['n']} x {row['n']}", row["d"], row["dtype"])
    if "failure" in extra:
        entries = (extra["failure"], "", "")
    else:
        mine, theirs = first_call_times(extra)
        entries = (time_text(mine), time_text(theirs), f"{mine / theirs:.3g}x")
    return "| " + " | ".join(map(str, (*keys, *entries))) + " |"


def first_call_section(extras: list[Record]) -> list[str]:
    """The table of first calls, if there are any."""
    rows = [first_call_row(extra) for extra in extras if extra["kind"] == "first call"]
    if not rows:
        return []
    heads = ("operation", "n x m", "d", "dtype", "otjax", DIRECT, "otjax over OTT-JAX")
    return [
        "## First calls",
        "",
        "What is waited for before the first number, compilation and one run: each by a process "
        "that has called nothing before, the median of a few. The value is that of the points of "
        "the first cloud, and so is the gradient; the divergence is that of Sinkhorn. Both "
        "libraries under `jax.jit`, at the tolerance of the rows, and at their defaults otherwise.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *rows,
        "",
    ]
