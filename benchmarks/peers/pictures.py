"""Time against accuracy, for each contestant of a row."""

import pathlib
import re
from typing import Any

from .tables import Record


def draw(record: Record, folder: pathlib.Path) -> pathlib.Path:
    """The best option of each library: the error of every run against its time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    families = dict.fromkeys(cell["family"] for cell in record["cells"])
    for family in families:
        runs = best_runs([cell for cell in record["cells"] if cell["family"] == family])
        if runs:
            times, errors = zip(*sorted(runs), strict=True)
            axes.loglog(times, errors, marker="o", markersize=4, label=family)
    axes.axhline(record["target"], color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds", ylabel="L1 error of both marginals", title=record["name"])
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9.]+", "-", record["name"].lower()) + ".png")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def best_runs(cells: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Times and errors of the option that was fastest, or came nearest."""

    def rank(cell: dict[str, Any]) -> tuple[bool, float]:
        if cell["status"] == "reached":
            return False, cell["seconds"]
        near = cell.get("best_error")
        return True, float("inf") if near is None else near

    for cell in sorted(cells, key=rank):
        runs = [
            (one["seconds"], one["error"])
            for one in cell.get("attempts", [])
            if 0 < one.get("error", 0) < 10
        ]
        if runs:
            return runs
    return []
