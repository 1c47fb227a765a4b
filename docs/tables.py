"""A MkDocs hook: tables of measurements come from the benchmarks' result files, and from nowhere
else. `{{table: maps}}` becomes the one that `maps` below makes.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_TABLE = re.compile(r"\{\{table: (\w+)\}\}")
Row = Iterable[Any]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return _TABLE.sub(lambda m: TABLES[m[1]](), markdown)


def gpu() -> str:
    """Solves, batches, and steps on a GPU."""
    rows = (
        (_without_default(r["name"]), _time(r["run_s"]), _steps(r.get("steps", "")),
         _error(r.get("marginal_error")))
        for r in _read("engine_gpu-nvidia-h200")["records"]
        if "run_s" in r and r["part"] != "other_engines"
    )  # fmt: skip
    return _table(("what", "time", "steps", "marginal error"), rows)


def engines() -> str:
    """The same problems by every engine."""
    records = [r for r in _read("engine_gpu-nvidia-h200")["records"] if "run_s" in r]
    times: dict[str, dict[str, str]] = {}
    for record in records:
        if record["name"].startswith("solve") and "engine" in record:
            problem = record["name"].rsplit(",", 1)[0].removeprefix("solve: ")
            engine = record["engine"]
            time = _time(record["run_s"])
            name = engine.removeprefix("default (").removesuffix(")")
            times.setdefault(problem, {})[name] = f"**{time}**" if name != engine else time
    names = ("Dense", "Streamed", "Pallas")
    rows = ((p, *(found.get(n, "") for n in names)) for p, found in times.items() if len(found) > 1)
    return _table(("problem", *names), rows)


def maps() -> str:
    """Neural maps of the continuous W2 benchmark."""
    best = {2: 0.1, 4: 0.3, 8: 0.7, 16: 1.4, 64: 3.2}
    rows = (
        (r["dim"], f"{r['l2_uvp']:.2f} %", best[r["dim"]], f"{r['linear']['l2_uvp']:.1f} %",
         f"{r['cos']:.3f}", r["steps"], r["batch"])
        for r in _read("w2_gpu-nvidia-h200")["records"] if r["pair"] == "published"
    )  # fmt: skip
    head = ("D", "L2-UVP", "best published, %", "best linear map", "cosine", "steps", "batch")
    return _table(head, rows)


def toy() -> str:
    """Eight Gaussians to moons."""
    # Rows that were run by themselves are parts of their own.
    parts = [part for name, part in _read("flow").items() if name.split(":")[0] == "toy"]
    rows = (
        (r["condition"], r["coupling"], "" if r["coupling"] == "independent" else part["epochs"],
         _spread(r["euler"]), r["euler"]["published"], _spread(r["fine"]), r["fine"]["published"])
        for part in parts for r in part["records"] if "condition" in r
    )  # fmt: skip
    head = ("condition", "coupling", "passes", "one step", "published", "50 steps", "published")
    floor = next(r["floor"] for r in parts[0]["records"] if "floor" in r)
    return _table(head, [*rows, ("", "other samples of the moons", "", "", "", _spread(floor), "")])


def drift_sweep() -> str:
    """Digits by generators along drifts, from cold to warm."""
    report = _read("drift_sweep")
    floor = report["floor"] | {"method": "training set", "temperature": ""}
    rows = (
        (r["method"], r["temperature"], f"{r['W2^2']:.2f}", f"{r['Frechet']:.2f}",
         f"{r['precision']:.2f}", f"{r['recall']:.2f}", f"{r['classes']:.0f}")
        for r in [*report["records"], floor]
    )  # fmt: skip
    head = ("drift", "temperature", "W2^2", "Fréchet", "precision", "recall", "classes")
    return _table(head, rows)


def tasks() -> str:
    """Four tasks in the plane."""
    rows = (
        (r["task"], r["coupling"], _spread(r["npe"]), r["npe_published"],
         _spread(r["straightness"]), _spread(r["w2"]), _spread(r["w2_floor"]))
        for r in _flow("tasks")
    )  # fmt: skip
    head = ("task", "coupling", "path energy, excess", "published", "straightness", "W2", "floor")
    return _table(head, rows)


def irreducible() -> str:
    """What couplings leave of the loss."""
    rows = (
        (r["coupling"], f"{r['loss']['mean']:.3f}", r["published"]) for r in _flow("irreducible")
    )
    return _table(("coupling", "loss", "published"), rows)


def bridge() -> str:
    """The Schrödinger bridge between Gaussians."""
    rows = (
        (r["dimensions"], _spread(r["covariance"]), f"{r['covariance_exact']:.3f}",
         _spread(r["kl_x1000_at_the_end"]))
        for r in _flow("bridge")
    )  # fmt: skip
    return _table(("d", "covariance at the end", "exact", "KL x 1000"), rows)


def dynamic() -> str:
    """The translation of a Gaussian by Benamou and Brenier's problem."""
    rows = (
        (" x ".join(map(str, r["grid"])), f"{r['cost']:.4f}", f"{r['exact']:.4f}",
         f"{100 * r['relative_error']:.2f} %", r["steps"])
        for r in _flow("dynamic")
    )  # fmt: skip
    return _table(("grid", "cost", "exact", "error", "steps"), rows)


def flow_speed() -> str:
    """Steps per second of flow matching, and steps along drifts."""
    report = _read("flow_speed_cpu-amd-epyc")
    rows = (
        (r["coupling"], f"{r['steps_per_second']:.0f}", f"{r['squared_displacement']:.2f}")
        for r in report["records"]
    )
    steps = ((r["drift"], f"{1 / r['seconds']:.0f}", "") for r in report["drifts"])
    return _table(("pairs", "steps a second", "squared length of the pairs"), [*rows, *steps])


def grids() -> str:
    """Images on a grid."""
    rows = (
        (f"{r['size']} x {r['size']}", r["fraction"], r["contestant"],
         _time(r["seconds"]) if "seconds" in r else r["outcome"], _error(r.get("error")))
        for r in _read("grids_cpu-amd-epyc")["rows"]
    )  # fmt: skip
    return _table(("images", "epsilon", "", "cost and gradient", "marginal error"), rows)


def static() -> str:
    """Static transport beside other libraries."""
    rows = (
        (r["row"], name, _time(seconds), f"{seconds / r['seconds']['otjax']:.3g}x",
         f"{r['errors'][name]:.2g} {r['measure']}")
        for r in _read("static_cpu-amd-epyc")["rows"]
        for name, seconds in r["seconds"].items()
    )  # fmt: skip
    return _table(("", "", "time", "over otjax", "error"), rows)


def scaling() -> str:
    """Many points on a CPU."""
    rows = (
        (r["n"], r["contestant"], _time(r["seconds"]), f"{r['peak_bytes'] / 2**20:.0f} MiB",
         _error(r.get("error")))
        for r in _read("scaling_cpu-amd-epyc")["rows"]
        if r["gradient"] and r["outcome"] == "done"
    )  # fmt: skip
    head = ("points a side", "", "value and gradient", "memory beyond the start", "marginal error")
    return _table(head, rows)


def fuzz() -> str:
    """Random problems at the edges of what numbers can be."""
    report = _read("fuzz")
    rows = [(name, number) for name, number in report["results"].items()]
    wrong = ("**wrong**", len(report["faults"]))
    return _table(("status", f"of {report['examples']}"), [*rows, wrong])


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        gpu,
        engines,
        scaling,
        static,
        grids,
        maps,
        toy,
        tasks,
        irreducible,
        bridge,
        dynamic,
        flow_speed,
        drift_sweep,
        fuzz,
    )  # fmt: skip
}


def _flow(part: str) -> list[dict[str, Any]]:
    return _read("flow")[part]["records"]


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _table(head: Row, rows: Iterable[Row]) -> str:
    line = lambda cells: f"| {' | '.join(str(cell) for cell in cells)} |"
    head = tuple(head)
    return "\n".join([line(head), line("---" for _ in head), *(line(row) for row in rows)])


def _spread(number: dict[str, float]) -> str:
    return f"{number['mean']:.3g} ± {number['std']:.1g}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def _steps(steps: Any) -> Any:
    return f"{steps['mean']:.0f}, at most {steps['max']}" if isinstance(steps, dict) else steps


def _without_default(name: str) -> str:
    return re.sub(r", default \((\w+)\)", r" (\1)", name)
