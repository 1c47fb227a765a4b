"""Times of solves, each with its marginal error made afresh in float64."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from accelerator import compiled, Record, relative, timed

import otjax

from .problems import (
    arrays_of,
    batch_of,
    choices,
    divergence_function,
    gradient_function,
    Scale,
    Shape,
    solve_function,
    TOLERANCE,
)


@functools.partial(jax.jit, static_argnames="block")
def sums(x, y, f, g, epsilon, *, block: int):
    """The plan's sums over rows and columns and its product with y, uniform masses."""
    n, m = x.shape[0], y.shape[0]

    def of_rows(column, rows):
        x, f = rows
        if x.shape[1] <= 8:
            cost = sum(jnp.square(x[:, k, None] - y[None, :, k]) for k in range(x.shape[1]))
        else:
            norms = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None, :]
            cost = norms - 2 * jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
        plan = jnp.exp((f[:, None] + g[None, :] - cost) / epsilon) / (n * m)
        product = jnp.matmul(plan, y, precision=lax.Precision.HIGHEST)
        return column + jnp.sum(plan, 0), (jnp.sum(plan, 1), product)

    rows = x.reshape(-1, block, x.shape[1]), f.reshape(-1, block)
    column, (row, product) = lax.scan(of_rows, jnp.zeros_like(g), rows)
    return row.reshape(n), column, product.reshape(x.shape)


def afresh(x, y, f, g, epsilon: Any) -> tuple[Any, np.ndarray]:
    """The L1 errors of both marginals, and the gradient by x, in float64 from the potentials; of a
    batch, those of each member."""
    n, m = x.shape[-2], y.shape[-2]
    of_one = functools.partial(sums, block=math.gcd(n, 1024))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(array, np.float64)) for array in (x, y, f, g, epsilon)]
        found = (jax.vmap(of_one) if x.ndim == 3 else of_one)(*arrays)
        row, column, product = (np.asarray(array) for array in found)
    error = np.abs(row - 1 / n).sum(-1) + np.abs(column - 1 / m).sum(-1)
    return error, 2 * (row[..., None] * np.asarray(x, np.float64) - product)


def claims(stats: Any, result: Any, error: Any) -> Record:
    """What a solve says of itself beside its error made afresh: a success must be one."""
    error, successful = float(error), bool(result == otjax.RESULTS.successful)
    return {
        "passed": not successful or error <= 2 * TOLERANCE,
        "result": otjax.RESULTS[result] or "successful",
        "steps": int(stats.num_steps),
        "claimed_error": float(stats.marginal_error),
        "marginal_error": error,
    }


def attempts(
    name: str,
    make: Callable[[otjax.AbstractEngine | None], Callable[..., Any]],
    measure: Callable[[Callable[..., Any]], Record],
    choices: dict[str, otjax.AbstractEngine | None],
) -> Iterator[Record]:
    """A record for each engine; one that raises, for instance for want of memory, is a record of
    that, and the next one runs."""
    for engine, chosen in choices.items():
        title = {"name": f"{name}, {engine}", "engine": engine}
        try:
            yield title | measure(make(chosen))
        except Exception as error:
            yield title | {"passed": False, "error": repr(error)[:1000]}


def timed_solves(shape: Shape, scale: Scale) -> Iterator[Record]:
    """Solves by each engine, then the value with its gradient by the default one."""
    x, y, epsilon = arrays_of(shape)

    def record(function: Callable[..., Any]) -> tuple[Any, Record]:
        run, compile_s = compiled(function, x, y, epsilon)
        output, times = timed(run, x, y, epsilon, repeats=scale.repeats)
        return output, {"compile_s": compile_s, **times}

    def solve(function: Callable[..., Any]) -> Record:
        (_, ((f, g), stats, result)), times = record(function)
        error, _ = afresh(x, y, f, g, epsilon)
        return times | claims(stats, result, error)

    def gradient(function: Callable[..., Any]) -> Record:
        ((_, ((f, g), stats, result)), by_x), times = record(function)
        error, right = afresh(x, y, f, g, epsilon)
        off = relative(by_x, right)
        found = times | claims(stats, result, error) | {"gradient_error": off}
        return found | {"passed": found["passed"] and off <= 1e-3}

    by_name = choices(x, y)
    yield from attempts(f"solve: {shape.name}", solve_function, solve, by_name)
    default = dict(list(by_name.items())[:1])
    yield from attempts(f"value and gradient: {shape.name}", gradient_function, gradient, default)


def batch(scale: Scale) -> Iterator[Record]:
    """Many small problems under `jax.vmap`."""
    count, n = scale.batch
    x, y, epsilon = batch_of(count, n)

    def measure(function: Callable[..., Any], has_gradient: bool) -> Record:
        run, compile_s = compiled(jax.vmap(function), x, y, epsilon)
        output, times = timed(run, x, y, epsilon, repeats=scale.repeats)
        _, ((f, g), stats, result) = output[0] if has_gradient else output
        successful = np.asarray(result == otjax.RESULTS.successful)
        steps = np.asarray(stats.num_steps)
        errors, _ = afresh(x, y, f, g, epsilon)
        return {
            "compile_s": compile_s,
            **times,
            "passed": bool(np.all(errors[successful] <= 2 * TOLERANCE)),
            "successful": int(successful.sum()),
            "steps": {"mean": float(steps.mean()), "max": int(steps.max())},
            "marginal_error": float(errors.max()),
        }

    by_name = choices(x[0], y[0])
    name = f"{count} problems of {n} x {n}, d = 2, epsilon = 0.05"
    yield from attempts(
        f"batch: solve, {name}", solve_function, lambda one: measure(one, False), by_name
    )
    yield from attempts(
        f"batch: divergence and gradient, {name}",
        divergence_function,
        lambda one: measure(one, True),
        by_name,
    )


def small(scale: Scale) -> Iterator[Record]:
    yield from timed_solves(Shape(scale.small, 2, 0.01), scale)


def medium_64(scale: Scale) -> Iterator[Record]:
    yield from timed_solves(Shape(scale.medium, 64, 0.05), scale)


def medium_3(scale: Scale) -> Iterator[Record]:
    yield from timed_solves(Shape(scale.medium, 3, 0.01), scale)


def large_3(scale: Scale) -> Iterator[Record]:
    yield from timed_solves(Shape(scale.large, 3, 0.01), scale)


def large_64(scale: Scale) -> Iterator[Record]:
    yield from timed_solves(Shape(scale.large, 64, 0.05), scale)
