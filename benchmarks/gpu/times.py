"""Times of solves, each with its marginal error made afresh in float64."""

import functools
import math
import time
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
    solution_of,
    solve_function,
    told,
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


def claims(stats: Any, result: Any, error: Any, tolerance: float = TOLERANCE) -> Record:
    """What a solve says of itself beside its error made afresh: a success must be one."""
    error, successful = float(error), bool(result == otjax.RESULTS.successful)
    return {
        "passed": not successful or error <= 2 * tolerance,
        "result": otjax.RESULTS[result] or "successful",
        "steps": int(stats.num_steps),
        "claimed_error": float(stats.marginal_error),
        "marginal_error": error,
    }


def is_default(name: str) -> bool:
    """Whether an engine is the one that otjax chooses."""
    return name.startswith("default")


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


def timed_solves(
    shape: Shape, scale: Scale, which: Callable[[str], bool] = is_default
) -> Iterator[Record]:
    """Solves by each engine that is wanted, then the value with its gradient by the default one."""
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

    wanted = {name: one for name, one in choices(x, y).items() if which(name)}
    yield from attempts(f"solve: {shape.name}", solve_function, solve, wanted)
    default = {name: one for name, one in wanted.items() if is_default(name)}
    yield from attempts(f"value and gradient: {shape.name}", gradient_function, gradient, default)


def batch(scale: Scale) -> Iterator[Record]:
    """Many small problems under `jax.vmap`, and their divergences."""
    yield from _batch(*scale.batch, scale, (False, True))


def other_batches(scale: Scale) -> Iterator[Record]:
    for count, n in scale.other_batches:
        yield from _batch(count, n, scale, (False,))


def _batch(count: int, n: int, scale: Scale, of_divergences: tuple[bool, ...]) -> Iterator[Record]:
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

    default = {name: one for name, one in choices(x[0], y[0]).items() if is_default(name)}
    name = f"{count} problems of {n} x {n}, d = 2, epsilon = 0.05"
    for with_gradient in of_divergences:
        make = divergence_function if with_gradient else solve_function
        title = "divergence and gradient" if with_gradient else "solve"
        yield from attempts(
            f"batch: {title}, {name}", make, lambda one, w=with_gradient: measure(one, w), default
        )


def huge(scale: Scale) -> Iterator[Record]:
    """One solve each: by default, which is from cells; from the solution of a part of the points;
    from scratch. And the peak of memory since the process began."""
    shape, tolerance = Shape(scale.huge, 3, 0.01), 1e-2
    x, y, epsilon = arrays_of(shape)

    def by_default(x, y, epsilon):
        return told(solution_of(None, tolerance)(x, y, epsilon))

    def from_scratch(x, y, epsilon):
        solver = otjax.Sinkhorn(tolerance=tolerance)
        return told(solution_of(None, None, solver)(x, y, epsilon))

    def from_coarse(x, y, epsilon):
        some = slice(None, None, scale.coarse)
        coarse = solution_of(None, tolerance)(x[some], y[some], epsilon)
        init = coarse.potential(x), coarse.T.potential(y)
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon)
        return told(otjax.solve(problem, tolerance=tolerance, init=init, throw=False))

    for name, function in (
        ("default", by_default),
        ("from a part", from_coarse),
        ("from scratch", from_scratch),
    ):
        run, compile_s = compiled(function, x, y, epsilon)
        begin = time.perf_counter()
        (f, g), stats, result = jax.block_until_ready(run(x, y, epsilon))
        times = {"compile_s": compile_s, "run_s": time.perf_counter() - begin, "runs": 1}
        memory = jax.local_devices()[0].memory_stats() or {}
        error = errors_in_float32(x, y, f, g, epsilon)
        yield {
            "name": f"solve: {shape.name}, error {tolerance:g}, {name}",
            **times,
            **claims(stats, result, error, tolerance),
            "peak_bytes": memory.get("peak_bytes_in_use"),
        }


def errors_in_float32(x, y, f, g, epsilon: Any) -> float:
    """The L1 errors of both marginals by the kernels: in float64 they would take minutes."""
    plan = otjax.PointCloud(x, y).plan(f, g, jnp.asarray(epsilon))
    row, column = plan.mv(jnp.full_like(g, 1 / len(y))), plan.T.mv(jnp.full_like(f, 1 / len(x)))
    return float(jnp.mean(jnp.abs(row - 1)) + jnp.mean(jnp.abs(column - 1)))


def exact(scale: Scale) -> Iterator[Record]:
    """Unregularised transport, to a proven gap."""
    x, y, _ = arrays_of(Shape(scale.exact, 64, 0.05))

    def function(x, y):
        solution = otjax.solve_exact(otjax.PointCloud(x, y), gap=1e-3, throw=False)
        return solution.lower, solution.upper, solution.gap, solution.stats, solution.result

    run, compile_s = compiled(function, x, y)
    begin = time.perf_counter()
    lower, upper, gap, stats, result = jax.block_until_ready(run(x, y))
    yield {
        "name": f"unregularised: {scale.exact} x {scale.exact}, d = 64, gap 1e-3",
        "compile_s": compile_s,
        "run_s": time.perf_counter() - begin,
        "passed": bool(lower <= upper),
        "lower": float(lower),
        "upper": float(upper),
        "gap": float(gap),
        "steps": int(stats.num_steps),
        "result": otjax.RESULTS[result] or "successful",
    }


def other_engines(scale: Scale) -> Iterator[Record]:
    """The solves above by the engines that otjax did not choose."""
    for n, d, epsilon in (
        (scale.medium, 3, 0.01), (scale.medium, 64, 0.05), (scale.small, 2, 0.01),
        (scale.large, 3, 0.01), (scale.large, 64, 0.05),
    ):  # fmt: skip
        yield from timed_solves(Shape(n, d, epsilon), scale, lambda name: not is_default(name))


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
