"""What is measured beside the rows, run in a worker: gradients and unregularised transport."""

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .problems import load, normal, Row, Sources


def otjax_exact(x: np.ndarray, y: np.ndarray, gap: float) -> Callable[[], float] | None:
    """A function that solves unregularised uniform transport by otjax to a relative gap and
    returns its cost; `None` where this otjax has no such solver."""
    import jax
    import jax.numpy as jnp

    import otjax

    exact_transport: Any = getattr(otjax, "exact_transport", None)
    if exact_transport is None:
        return None
    points = jnp.asarray(x), jnp.asarray(y)

    def solve() -> float:
        solution = exact_transport(otjax.PointCloud(*points), gap=gap)
        return float(jax.block_until_ready(solution.upper))

    return solve


def pot_exact(x: np.ndarray, y: np.ndarray, gap: float) -> Callable[[], float]:
    """The same by the network simplex of POT, whose gap is zero."""
    ot = importlib.import_module("ot")
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    return lambda: float(ot.emd2(a, b, ot.dist(x, y), numItermax=100_000_000))


def exact(library: str, n: int, d: int, dtype: str, gap: float) -> dict[str, Any] | None:
    """Time and cost of unregularised transport."""
    clouds = normal(n, d)
    x, y = clouds.x.astype(dtype), clouds.y.astype(dtype)
    solve = {"otjax": otjax_exact, "POT": pot_exact}[library](x, y, gap)
    if solve is None:
        return None
    begin = time.perf_counter()
    cost = solve()
    first = time.perf_counter() - begin
    # The network simplex compiles nothing.
    times = [first] if library == "POT" else []
    while len(times) < 3 and sum(times) < 20:
        begin = time.perf_counter()
        cost = solve()
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times), "first_call": first, "cost": cost}


def gradient(row: Row, repeats: int) -> dict[str, float]:
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
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function(x))
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {**medians, "ratio": medians["both"] / medians["value"]}
