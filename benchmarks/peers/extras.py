"""What is measured beside the rows, run in a worker: first calls, gradients and unregularised
transport."""

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .first_calls import first_call as first_call
from .problems import load, normal, Row, Sources


Solve = Callable[[], dict[str, float]]


def otjax_exact(x: np.ndarray, y: np.ndarray, gap: float) -> Solve:
    """Unregularised uniform transport by otjax, to a relative gap of its bounds."""
    import jax

    import otjax

    solve = jax.jit(lambda x, y: otjax.solve_exact(otjax.PointCloud(x, y), gap=gap, throw=False))

    def run() -> dict[str, float]:
        solution = jax.block_until_ready(solve(x, y))
        return {"cost": float(solution.upper), "lower": float(solution.lower)}

    return run


def pot_exact(x: np.ndarray, y: np.ndarray, gap: float) -> Solve:
    """The same by the network simplex of POT, whose gap is zero."""
    ot = importlib.import_module("ot")
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    return lambda: {"cost": float(ot.emd2(a, b, ot.dist(x, y), numItermax=100_000_000))}


def exact(library: str, n: int, d: int, dtype: str, gap: float) -> dict[str, Any]:
    """Time and cost of unregularised transport."""
    clouds = normal(n, d)
    x, y = clouds.x.astype(dtype), clouds.y.astype(dtype)
    solve = {"otjax": otjax_exact, "POT": pot_exact}[library](x, y, gap)
    begin = time.perf_counter()
    found = solve()
    first = time.perf_counter() - begin
    # The network simplex compiles nothing, and beside a long solve compilation is little.
    times = [first] if library == "POT" or first > 30 else []
    while not times or (len(times) < 3 and sum(times) < 20):
        begin = time.perf_counter()
        found = solve()
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times), "first_call": first, **found}


def gradient(row: Row) -> dict[str, float]:
    """The time of the value with its gradient over that of the value, by the default solver."""
    import jax
    import jax.numpy as jnp

    import otjax

    problem = load(row, Sources())
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    epsilon = jnp.asarray(problem.epsilon, x.dtype)

    def value(x: Any) -> Any:
        entropic = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon)
        return otjax.solve(entropic, throw=False).value

    functions = {"value": jax.jit(value), "both": jax.jit(jax.value_and_grad(value))}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function(x))
    end = time.perf_counter() + 4
    while len(times["both"]) < 5 or (len(times["both"]) < 50 and time.perf_counter() < end):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function(x))
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {**medians, "ratio": medians["both"] / medians["value"]}
