"""Time and peak memory against the number of points, of a solve and of its gradient.

    .venv/bin/python benchmarks/scaling.py             # 10^3 to 10^6 points, hours on a CPU
    .venv/bin/python benchmarks/scaling.py --quick     # does it run?
    .venv/bin/python benchmarks/scaling.py --largest 1e5 --limit 300

Two clouds of n points in three dimensions, float32, at epsilon a fraction of the mean cost. Each
measurement is a process of its own, so that its peak of memory is its own: resident memory beyond
what the process held before, or what the allocator of an accelerator reports. A contestant that was
not done within the limit, or ran out of memory, is not tried with more points. Each stops at the
same tolerance by its own account; up to 20,000 points the marginal error is made afresh in float64.
GeomLoss has no tolerance: its steps are those of `scaling`. Results go to one JSON file for each
machine, with pictures beside it. Let nothing else run meanwhile.
"""

import argparse
import importlib.util
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from host import marginal_error, mean_cost, mixtures


# What is measured, and the module that it needs.
CONTESTANTS = {
    "otjax": "otjax",
    "otjax, coarse to fine": "otjax",
    "OTT-JAX": "ott",
    "GeomLoss": "geomloss",
}
_CHECKED = 20_000
# Computes, and returns the potentials of P = a b exp((f + g - C) / epsilon), where it has them.
Solve = Callable[[], Any]


def of_jax(value: Callable, x: np.ndarray, y: np.ndarray) -> tuple[Solve, Solve]:
    import jax
    import jax.numpy as jnp

    points = jnp.asarray(x), jnp.asarray(y)
    forward = jax.jit(value)
    backward = jax.jit(jax.value_and_grad(value, has_aux=True))
    ready = jax.block_until_ready
    return lambda: ready(forward(*points))[1], lambda: ready(backward(*points))[0][1]


def of_otjax(x, y, epsilon: float, tolerance: float, coarse: bool) -> tuple[Solve, Solve]:
    import otjax

    solver = otjax.Sinkhorn(tolerance=tolerance)
    solver = otjax.CoarseToFine(solver, cells=4096) if coarse else solver

    def value(x, y):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon)
        solution = otjax.solve(problem, solver, throw=False)
        return solution.value, solution.potentials

    return of_jax(value, x, y)


def of_ott(x, y, epsilon: float, tolerance: float) -> tuple[Solve, Solve]:
    import jax.interpreters.batching as batching
    from jax._src.interpreters.batching import is_vmappable

    # OTT-JAX 0.6.0 asks for it here, where newer JAX no longer has it, once it works in batches.
    batching.is_vmappable = is_vmappable  # pyright: ignore[reportAttributeAccessIssue]
    from ott.geometry import pointcloud  # pyright: ignore[reportMissingImports]
    from ott.problems.linear import linear_problem  # pyright: ignore[reportMissingImports]
    from ott.solvers.linear import sinkhorn  # pyright: ignore[reportMissingImports]

    solver = sinkhorn.Sinkhorn(threshold=tolerance, max_iterations=20_000)
    shift = epsilon * np.log(len(x))

    def value(x, y):
        # Held as long as it takes what otjax would let it.
        batch = None if len(x) <= 8192 else 1024
        geometry = pointcloud.PointCloud(x, y, epsilon=epsilon, batch_size=batch)
        out = solver(linear_problem.LinearProblem(geometry))
        return out.reg_ot_cost, (out.f + shift, out.g + shift)

    return of_jax(value, x, y)


def of_geomloss(x, y, epsilon: float) -> tuple[Solve, Solve]:
    import geomloss  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (torch.tensor(points, device=device) for points in (x, y))
    online = importlib.util.find_spec("pykeops") is not None and len(x) > 4096
    # Its cost is half the squared distance.
    options = {"blur": float(np.sqrt(epsilon / 2)), "scaling": 0.9, "debias": False}
    options |= {"backend": "online" if online else "tensorized"}
    potentials = geomloss.SamplesLoss("sinkhorn", potentials=True, **options)
    loss = geomloss.SamplesLoss("sinkhorn", **options)

    def forward() -> tuple[Any, Any]:
        f, g = potentials(x, y)
        return tuple(2 * p.detach().cpu().numpy().ravel() for p in (f, g))

    def backward() -> None:
        points = x.clone().requires_grad_(True)
        loss(points, y).backward()

    return forward, backward


def peak_memory() -> int:
    """Bytes at the peak so far: of the accelerator that JAX or PyTorch uses, or resident."""
    if "jax" in sys.modules:
        stats = sys.modules["jax"].local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return stats["peak_bytes_in_use"]
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(
    contestant: str, n: int, gradient: bool, fraction: float, tolerance: float
) -> dict[str, Any]:
    """One measurement, in this process."""
    x, y = mixtures(n, n, 3)
    epsilon = fraction * mean_cost(x, y)
    if contestant == "OTT-JAX":
        solves = of_ott(x, y, epsilon, tolerance)
    elif contestant == "GeomLoss":
        solves = of_geomloss(x, y, epsilon)
    else:
        solves = of_otjax(x, y, epsilon, tolerance, coarse="coarse" in contestant)
    solve = solves[int(gradient)]
    before = peak_memory()
    start = time.perf_counter()
    potentials = solve()
    first = time.perf_counter() - start
    times = []
    while len(times) < 5 and sum(times) < 20:
        start = time.perf_counter()
        solve()
        times.append(time.perf_counter() - start)
    result = {
        "seconds": statistics.median(times),
        "first_seconds": first,
        "peak_bytes": peak_memory() - before,
    }
    if potentials is not None and n <= _CHECKED:
        f, g = potentials
        result["error"] = marginal_error(x, y, f, g, epsilon)
    return result


def in_a_process(arguments: list[str], limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", *arguments]
    try:
        end = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": f"not in {limit:.0f} s"}
    if end.returncode != 0:
        return {"outcome": f"failed ({end.returncode}): {end.stderr[-300:]}"}
    return {"outcome": "done", **json.loads(end.stdout.splitlines()[-1])}


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Seconds and bytes against points, log-log: a column for the solve, one for its gradient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="tight")
    axes = figure.subplots(2, 2, sharex=True)
    for column, gradient in enumerate((False, True)):
        for axis, quantity in zip(axes[:, column], ("seconds", "peak_bytes"), strict=True):
            for name in CONTESTANTS:
                done = [
                    row
                    for row in rows
                    if row["contestant"] == name
                    and row["gradient"] == gradient
                    and row["outcome"] == "done"
                ]
                if done:
                    points, numbers = zip(*((r["n"], r[quantity]) for r in done), strict=True)
                    axis.loglog(points, numbers, "o-", label=name)
            axis.set_ylabel(quantity.replace("_", " "))
            axis.grid(alpha=0.3)
        axes[0, column].set_title("solve with its gradient" if gradient else "solve")
        axes[1, column].set_xlabel("points on each side")
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory against points.")
    parser.add_argument("--quick", action="store_true", help="a few hundred points: does it run?")
    parser.add_argument("--largest", type=float, default=1e6, help="number of points")
    parser.add_argument("--fraction", type=float, default=0.05, help="epsilon over the mean cost")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one measurement")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        name, n, gradient = options.one
        how = options.fraction, options.tolerance
        print(json.dumps(one(name, int(n), gradient == "gradient", *how)))
        return
    # Not before: the processes that measure have the device to themselves.
    from accelerator import describe_device, versions

    device = describe_device()
    beside = pathlib.Path(__file__).parent / f"results/scaling_{device['slug']}.json"
    output = options.output or beside
    output.parent.mkdir(parents=True, exist_ok=True)
    sizes = [100, 300] if options.quick else [round(10 ** (k / 2)) for k in range(6, 13)]
    rows, given_up = [], set()
    for n in (n for n in sizes if n <= options.largest):
        for name in options.contestants:
            for gradient in (False, True):
                row: dict[str, Any] = {"n": n, "contestant": name, "gradient": gradient}
                if importlib.util.find_spec(CONTESTANTS[name]) is None:
                    row["outcome"] = f"needs {CONTESTANTS[name]}"
                elif (name, gradient) in given_up:
                    row["outcome"] = "not tried"
                else:
                    kind = "gradient" if gradient else "solve"
                    how = ["--fraction", str(options.fraction)]
                    how += ["--tolerance", str(options.tolerance)]
                    row |= in_a_process([name, str(n), kind, *how], options.limit)
                if row["outcome"] != "done":
                    given_up.add((name, gradient))
                rows.append(row)
                print(row, flush=True)
                report = {"device": device, "versions": versions(), "rows": rows}
                output.write_text(json.dumps(report, indent=1) + "\n")
    draw(rows, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
