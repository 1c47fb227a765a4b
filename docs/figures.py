"""A MkDocs hook: figures in prose come from the benchmark's result file, and from nowhere else.

`{{peers: normal, n = 1024, d = 2, epsilon = 0.01, float32 | Sinkhorn}}` becomes the time and the
steps of that row and that solver; without a solver, those of the default.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any


RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "peers" / "results.json"
_FIGURE = re.compile(r"\{\{peers: ([^|}]+?)(?: \| (\w+))?\}\}")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return _FIGURE.sub(lambda m: figure(m[1], m[2] or "default"), markdown)


def figure(row: str, option: str) -> str:
    """The time and the steps of a solver of otjax in a row of the benchmark.

    **Raises:** `KeyError` for a row or a solver that the file does not have.
    """
    cell = _cells()[row, option]
    if cell["status"] != "reached":
        return "not reached"
    return f"{_time(cell['seconds'])} ({cell['iterations']} steps)"


@functools.cache
def _cells() -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(RESULTS.read_text())["rows"]
    return {
        (row["name"], cell["option"]): cell
        for row in rows
        for cell in row["cells"]
        if cell["family"] == "otjax"
    }


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
