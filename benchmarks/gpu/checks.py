"""Every engine against float64 on the host: values, derivatives of both orders, potentials."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from accelerator import close, compiled, constrained, Record, relative
from host import mean_cost, mixtures, Truth, truth

import otjax

from .problems import ENGINES, Scale, solution_of


LIMITS = {
    "value": 1e-5,
    "by x": 1e-3,
    "by epsilon": 1e-3,
    "Hessian by x": 2e-2,
    "potentials / epsilon": 1e-2,
}


@functools.cache
def expected(n: int, m: int, d: int) -> tuple[Any, ...]:
    """A problem, its solution in float64, a direction of its points, and how the gradient moves
    along it: by central differences."""
    x, y = mixtures(n, m, d)
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    epsilon = 0.05 * mean_cost(x, y)
    right = truth(x, y, a, b, epsilon, math.inf)
    direction = np.random.default_rng(3).normal(size=x.shape).astype(np.float32)
    step = 1e-5 * direction.astype(np.float64)
    ahead, behind = (
        truth(x.astype(np.float64) + moved, y, a, b, epsilon, math.inf, right).by_x
        for moved in (step, -step)
    )
    return x, y, epsilon, right, direction, (ahead - behind) / 2e-5


def derivatives(engine: otjax.AbstractEngine) -> Callable[..., Any]:
    """The value and potentials, the gradients, and the Hessian of the points along a direction."""

    def value(x, y, epsilon):
        solution = solution_of(engine, 2e-5)(x, y, epsilon)
        return solution.value, solution.potentials

    def function(x, y, epsilon, direction):
        first = lambda x: jax.value_and_grad(value, (0, 2), has_aux=True)(x, y, epsilon)
        (values, gradients), (_, (second, _)) = jax.jvp(first, (x,), (direction,))
        return values, gradients, second

    return function


def deviations(got: Any, right: Truth, curvature: np.ndarray, epsilon: float) -> dict[str, float]:
    (value, (f, g)), (by_x, by_epsilon), second = got
    off_f, off_g = np.asarray(f, np.float64) - right.f, np.asarray(g, np.float64) - right.g
    shift = off_f.mean()
    return {
        "value": relative(value, right.value),
        "by x": relative(by_x, right.by_x),
        "by epsilon": relative(by_epsilon, right.by_epsilon),
        "Hessian by x": relative(second, curvature),
        "potentials / epsilon": float(
            max(abs(off_f - shift).max(), abs(off_g + shift).max()) / epsilon
        ),
    }


def small_checks(scale: Scale) -> Iterator[Record]:
    """Batches of small problems, which have a kernel of their own: values, potentials and the
    gradient of each member, and what a limit of steps leaves. Some points have no mass."""
    for count, n, m, rho in ((8, 100, 128, math.inf), (8, 33, 21, 2.0)):
        pairs = [mixtures(n, m, 2, seed) for seed in range(count)]
        x, y = (np.stack(clouds) for clouds in zip(*pairs, strict=True))
        a, b = np.full((count, n), 1 / n, np.float32), np.full((count, m), 1 / m, np.float32)
        a[:, 1], b[:, 2] = 0, 0
        a, b = a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)
        means = [mean_cost(*pair) for pair in pairs]
        epsilon = np.asarray([0.05 * mean for mean in means], np.float32)

        def value(x, y, a, b, epsilon, max_steps, rho=rho):
            problem = otjax.EntropicProblem(
                otjax.PointCloud(x, y), a, b, epsilon=epsilon, marginals=constrained(rho)
            )
            solution = otjax.solve(problem, tolerance=1e-5, max_steps=max_steps, throw=False)
            return solution.value, (solution.potentials, solution.stats, solution.result)

        function = jax.jit(jax.vmap(jax.value_and_grad(value, has_aux=True), (*[0] * 5, None)))
        out, by_x = function(x, y, a, b, epsilon, 5000)
        out, by_x = jax.tree.map(np.asarray, (out, by_x))
        errors = {"value": 0.0, "by x": 0.0, "potentials / epsilon": 0.0, "not successful": 0.0}
        for i in range(count):
            value_, (potentials, _, result) = jax.tree.map(lambda leaf, i=i: leaf[i], out)
            rows, columns = a[i] > 0, b[i] > 0
            masses = (a[i][rows], b[i][columns])
            masses = [one / np.sum(one, dtype=np.float64) for one in masses]
            right = truth(x[i][rows], y[i][columns], *masses, float(epsilon[i]), rho)
            moved = potentials[0][rows] - right.f, potentials[1][columns] - right.g
            found = {
                "value": abs(float(value_) / right.value - 1),
                "by x": relative(by_x[i][rows], right.by_x) + float(np.abs(by_x[i][~rows]).max()),
                "potentials / epsilon": float(max(map(np.ptp, moved)) / epsilon[i]),
                "not successful": float(bool(result != otjax.RESULTS.successful)),
            }
            errors = {key: max(errors[key], found[key]) for key in errors}
        limits = LIMITS | {"not successful": 0.0}
        yield close(f"check: {count} problems of {n} x {m}, rho = {rho}", errors, limits)
        (_, (_, stats, results)), _ = function(x, y, a, b, epsilon, 3)
        others = results != otjax.RESULTS.max_steps_reached
        errors = {
            "steps": float(np.max(np.abs(np.asarray(stats.num_steps) - 3))),
            "other results": float(np.sum(np.asarray(others))),
        }
        limits = {"steps": 0.0, "other results": 0.0}
        yield close(f"check: {count} problems of {n} x {m}, 3 steps each", errors, limits)


def checks(scale: Scale) -> Iterator[Record]:
    """Kernels at every dimension, other engines at the least and at the largest one."""
    ends = scale.checks[0], scale.checks[-1]
    yield from _checks(scale, lambda name, shape: name == "Pallas" or shape in ends)


def more_checks(scale: Scale) -> Iterator[Record]:
    """Other engines at what is between."""
    ends = scale.checks[0], scale.checks[-1]
    yield from _checks(scale, lambda name, shape: name != "Pallas" and shape not in ends)


def _checks(scale: Scale, wanted: Callable[[str, tuple[int, int, int]], bool]) -> Iterator[Record]:
    for name, (n, m, d) in itertools.product(ENGINES, scale.checks):
        if not wanted(name, (n, m, d)):
            continue
        x, y, epsilon, right, direction, curvature = expected(n, m, d)
        arrays = x, y, np.float32(epsilon), direction
        function, compile_s = compiled(derivatives(ENGINES[name]), *arrays)
        errors = deviations(function(*arrays), right, curvature, epsilon)
        record = close(f"check: {name}, {n} x {m}, d = {d}", errors, LIMITS)
        yield record | {"compile_s": compile_s}


def batch_checks(scale: Scale) -> Iterator[Record]:
    """Every engine under `jax.vmap`, problems of one shape and different epsilon."""
    n, m, d = scale.checks[0]
    x, y, epsilon, right, direction, curvature = expected(n, m, d)
    factors = (1.0, 2.0)
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    other = truth(x, y, a, b, factors[1] * epsilon, math.inf, right)
    for name, engine in ENGINES.items():
        batched = jax.vmap(derivatives(engine), (None, None, 0, None))
        epsilons = np.asarray([factor * epsilon for factor in factors], np.float32)
        got = jax.jit(batched)(x, y, epsilons, direction)
        one, two = (jax.tree.map(lambda leaf, k=k: leaf[k], got) for k in range(2))
        errors = deviations(one, right, curvature, epsilon)
        yield close(f"check: {name}, batched, first", errors, LIMITS)
        errors = deviations(two, other, curvature, factors[1] * epsilon)
        del errors["Hessian by x"]  # known for the first only
        yield close(f"check: {name}, batched, second", errors, LIMITS)
