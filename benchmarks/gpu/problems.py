"""What is solved: how large, by which engine, and as which function of arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from host import mean_cost, mixtures

import otjax


# The marginal error that timed solves are asked for.
TOLERANCE = 1e-3
ENGINES: dict[str, otjax.AbstractEngine] = {
    name: getattr(otjax, name)() for name in ("Pallas", "Dense", "Streamed") if hasattr(otjax, name)
}


class Shape(NamedTuple):
    """A problem to be timed; epsilon is in units of the mean cost."""

    n: int
    d: int
    epsilon: float

    @property
    def name(self) -> str:
        return f"{self.n} x {self.n}, d = {self.d}, epsilon = {self.epsilon:g}"


class Scale(NamedTuple):
    """How large everything is."""

    checks: tuple[tuple[int, int, int], ...]  # n, m, d
    batch: tuple[int, int]  # problems, points of each
    other_batches: tuple[tuple[int, int], ...]
    small: int
    medium: int
    large: int
    huge: int
    coarse: int  # of so many points one is taken for a start of the huge problem
    exact: int
    couplings: tuple[int, ...]  # samples of each side in a plan
    drift: tuple[int, int]  # samples, dimension
    repeats: int


FULL = Scale(
    checks=((301, 257, 2), (512, 300, 3), (300, 333, 8), (640, 513, 64)),
    batch=(1024, 128),
    other_batches=((1024, 60), (256, 200), (256, 256)),
    small=1024,
    medium=10_240,
    large=51_200,
    huge=2**20,
    coarse=16,
    exact=16_384,
    couplings=(256, 4096, 65_536),
    drift=(4096, 1024),
    repeats=5,
)
QUICK = Scale(
    ((33, 29, 2), (40, 32, 64)), (4, 16), ((2, 12),), 64, 96, 128, huge=256, coarse=4, exact=48,
    couplings=(32, 64), drift=(64, 24), repeats=1,
)  # fmt: skip


def solution_of(
    engine: otjax.AbstractEngine | None,
    tolerance: float | None,
    solver: otjax.AbstractSolver | None = None,
) -> Callable[..., Any]:
    """A function of points and epsilon to the solution: by the default solver at a tolerance, or by
    another."""

    def solved(x, y, epsilon):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y, engine=engine), epsilon=epsilon)
        return otjax.solve(problem, solver, tolerance=tolerance, throw=False)

    return solved


def told(solution: otjax.Solution) -> tuple[Any, ...]:
    """What a solve says of itself."""
    return solution.potentials, solution.stats, solution.result


def solve_function(engine: otjax.AbstractEngine | None) -> Callable[..., Any]:
    def function(x, y, epsilon):
        solution = solution_of(engine, TOLERANCE)(x, y, epsilon)
        return solution.value, told(solution)

    return function


def gradient_function(engine: otjax.AbstractEngine | None) -> Callable[..., Any]:
    """The value and its gradient, by the points of the first cloud."""
    return jax.value_and_grad(solve_function(engine), has_aux=True)


def divergence_function(engine: otjax.AbstractEngine | None) -> Callable[..., Any]:
    """The Sinkhorn divergence and its gradient."""

    def function(x, y, epsilon):
        xy, xx, yy = (otjax.PointCloud(*pair, engine=engine) for pair in ((x, y), (x, x), (y, y)))
        value, solutions = otjax.divergence(xy, xx, yy, epsilon=epsilon, tolerance=TOLERANCE)
        return value, told(solutions.xy)

    return jax.value_and_grad(function, has_aux=True)


def choices(x: np.ndarray, y: np.ndarray) -> dict[str, otjax.AbstractEngine | None]:
    """The default, which is one of the engines, and the others."""
    default = type(otjax.PointCloud(x, y)._engine).__name__
    others = {name: engine for name, engine in ENGINES.items() if name != default}
    return {f"default ({default})": None, **others}


def arrays_of(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.float32]:
    x, y = mixtures(shape.n, shape.n, shape.d)
    return x, y, np.float32(shape.epsilon * mean_cost(x, y))


@functools.cache
def batch_of(count: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = [mixtures(n, n, 2, seed) for seed in range(count)]
    x, y = (np.stack(clouds) for clouds in zip(*pairs, strict=True))
    return x, y, np.asarray([0.05 * mean_cost(*pair) for pair in pairs], np.float32)
