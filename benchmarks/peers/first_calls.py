"""First calls: what somebody waits for before the first number, most of it compilation.

Each is made by a process that has called nothing before, for what one program has traced and
compiled serves the next. The library is imported and JAX has its device before the clock starts.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

from .problems import load, Row, Sources


OPERATIONS = ("solve", "value and gradient", "divergence and gradient")
LIBRARIES = ("otjax", "OTT-JAX")

Value = Callable[[Any, Any, Any], Any]  # of points and epsilon


def otjax_values(tolerance: float) -> tuple[Value, Value]:
    """The value of a solve, and the divergence."""
    import otjax

    def value(x, y, epsilon):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon)
        return otjax.solve(problem, tolerance=tolerance, throw=False).value

    def divergence(x, y, epsilon):
        return otjax.sinkhorn_divergence(x, y, epsilon=epsilon, tolerance=tolerance)

    return value, divergence


def ott_values(tolerance: float) -> tuple[Value, Value]:
    """The same by OTT-JAX's own doors, at its defaults."""
    pointcloud = importlib.import_module("ott.geometry.pointcloud")
    linear = importlib.import_module("ott.solvers.linear")
    divergences = importlib.import_module("ott.tools.sinkhorn_divergence")
    limits = {"threshold": tolerance, "max_iterations": 200_000}

    def value(x, y, epsilon):
        return linear.solve(pointcloud.PointCloud(x, y, epsilon=epsilon), **limits).reg_ot_cost

    def divergence(x, y, epsilon):
        return divergences.sinkdiv(x, y, epsilon=epsilon, solve_kwargs=limits)[0]

    return value, divergence


def first_call(library: str, operation: str, row: Row) -> dict[str, float]:
    """Seconds of the first call and of a second one, and the value."""
    import jax
    import jax.numpy as jnp

    value, divergence = {"otjax": otjax_values, "OTT-JAX": ott_values}[library](row.target)
    function = jax.jit(
        {
            "solve": value,
            "value and gradient": jax.value_and_grad(value),
            "divergence and gradient": jax.value_and_grad(divergence),
        }[operation]
    )
    problem = load(row, Sources())
    arrays = [jnp.asarray(array, row.dtype) for array in (problem.x, problem.y, problem.epsilon)]
    jax.block_until_ready(arrays)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        output = jax.block_until_ready(function(*arrays))
        times.append(time.perf_counter() - begin)
    return {"first": times[0], "second": times[1], "value": float(jax.tree.leaves(output)[0])}
