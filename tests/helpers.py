"""The registry of what is tested, makers of problems with fixed seeds, and finite differences.

A new solver, engine, constraint or ground cost is one line here, and every behaviour is then
tested with it.
"""

import dataclasses
import functools as ft
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, PyTree

import otjax


def skip_without(extra: str, *modules: str) -> pytest.MarkDecorator:
    """A mark for tests of what stands beside the library, and needs more than it."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs `otjax[{extra}]`: {absent}")


# Sizes such that a cloud streamed `BLOCK` rows at a time is reduced in several blocks, with a
# shorter last one, from both sides.
N, M, D = 13, 9, 2
BLOCK = 4


def callable_cost(x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
    """A smooth ground cost that is not symmetric, so that the two sides cannot be confused."""
    return jnp.sum(jnp.square(x - 0.7 * y)) + jnp.sin(x[0]) * y[1]


class Mahalanobis(eqx.Module):
    """A ground cost with parameters to learn."""

    weight: Float[Array, "d d"]

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(jnp.square(jnp.matmul(self.weight.astype(x.dtype), x - y)))


class NaiveEngine(otjax.AbstractEngine):
    """An engine as a stranger would write one: one row at a time, in a loop that JAX cannot
    differentiate backwards; of derivatives, transposes and batches it knows nothing."""

    holds: ClassVar[bool] = False

    def softmin(self, pairs, h, epsilon):
        def row(x):
            cost = dataclasses.replace(pairs, x=x[None, :]).matrix()[0]
            return -epsilon * jax.nn.logsumexp((h - cost) / epsilon)

        return self._row_by_row(row, (pairs.x,), jnp.zeros(pairs.x.shape[:1], h.dtype))

    def apply(self, pairs, f, g, epsilon, columns):
        def row(x, f):
            cost = dataclasses.replace(pairs, x=x[None, :]).matrix()[0]
            entries = jnp.exp(((f + g - cost) / epsilon).astype(columns.dtype))
            return jnp.sum(entries[:, None] * columns, axis=0)

        shape = (f.shape[0], columns.shape[1])
        return self._row_by_row(row, (pairs.x, f), jnp.zeros(shape, columns.dtype))

    def _row_by_row(self, row, rows, out):
        def body(state):
            i, out = state
            return i + 1, out.at[i].set(row(*(leaf[i] for leaf in rows)))

        return jax.lax.while_loop(lambda state: state[0] < len(out), body, (0, out))[1]


# Made with `SOLVERS[name](tolerance=...)`.
SOLVERS: dict[str, Callable[..., otjax.AbstractSolver]] = {
    "sinkhorn": otjax.Sinkhorn,
    "plain": ft.partial(otjax.Sinkhorn, annealing=otjax.NoAnnealing(), acceleration=otjax.Plain()),
    "overrelaxed": ft.partial(otjax.Sinkhorn, acceleration=otjax.Overrelaxation()),
    "newton": otjax.DualNewton,
    "adaptive": otjax.Adaptive,
    "l-bfgs": otjax.LBFGS,
}

# How the n x m reductions are carried out: made with `ENGINES[name](x, y, cost)`.
ENGINES: dict[str, Callable[[Any, Any, Any], otjax.AbstractGeometry]] = {
    "dense": lambda x, y, cost: otjax.PointCloud(x, y, cost=cost),
    "streamed": lambda x, y, cost: otjax.PointCloud(x, y, cost=cost, engine=otjax.Streamed(BLOCK)),
    "naive": lambda x, y, cost: otjax.PointCloud(x, y, cost=cost, engine=NaiveEngine()),
    "matrix": lambda x, y, cost: otjax.CostMatrix(cost_matrix(x, y, cost)),
}

# Made with `MARGINALS[name](rho)`.
MARGINALS: dict[str, Callable[[Any], Any]] = {
    "balanced": lambda rho: otjax.Balanced(),
    "unbalanced": lambda rho: otjax.Unbalanced(rho),
    "unbalanced first": lambda rho: (otjax.Unbalanced(rho), otjax.Balanced()),
    "unbalanced second": lambda rho: (otjax.Balanced(), otjax.Unbalanced(rho)),
}


def public_costs() -> dict[str, Callable[[], Any]]:
    """The ground costs of the public list that can be made without arguments, by their names."""
    public = {name: getattr(otjax, name) for name in dir(otjax)}
    return {
        name: cost
        for name, cost in public.items()
        if isinstance(cost, type)
        and issubclass(cost, otjax.AbstractGroundCost)
        and not inspect.isabstract(cost)
        and all(
            parameter.default is not parameter.empty
            for parameter in inspect.signature(cost).parameters.values()
        )
    }


# Made with `COSTS[name]()`; the parameters are float64 arrays. What is public needs no line here,
# unless it must be given something.
COSTS: dict[str, Callable[[], Any]] = public_costs() | {
    "p-norm": lambda: otjax.PNorm(1.5, power=1.2),
    "callable": lambda: callable_cost,
    "learnable": lambda: Mahalanobis(jnp.array([[1.2, 0.3], [-0.4, 0.8]])),
}


def cost_matrix(x: Array, y: Array, cost: Any) -> Array:
    """The matrix of a ground cost, one pair of points at a time."""
    return jax.vmap(lambda x_i: jax.vmap(lambda y_j: cost(x_i, y_j))(y))(x)


def points(
    seed: int = 0, *, n: int = N, m: int = M, d: int = D, dtype: Any = jnp.float64
) -> tuple[Array, Array]:
    """Two clouds that overlap."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = 0.5 + 0.8 * rng.normal(size=(m, d))
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def masses(
    seed: int = 0,
    *,
    n: int = N,
    m: int = M,
    zeros: bool = False,
    totals: tuple[float, float] = (1.0, 1.0),
    dtype: Any = jnp.float64,
) -> tuple[Array, Array]:
    """Masses that are not uniform; with `zeros`, two points of each side have none."""
    rng = np.random.default_rng(seed + 1000)
    a, b = rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, m)
    if zeros:
        a[[0, n // 2]], b[[m // 2, m - 1]] = 0.0, 0.0
    a, b = totals[0] * a / a.sum(), totals[1] * b / b.sum()
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype)


def make_problem(
    seed: int = 0,
    *,
    engine: str = "dense",
    marginals: str = "balanced",
    cost: str = "SqEuclidean",
    epsilon: float = 0.3,
    rho: float = 0.7,
    zeros: bool = False,
    totals: tuple[float, float] = (1.0, 1.0),
    n: int = N,
    m: int = M,
    d: int = D,
    dtype: Any = jnp.float64,
) -> otjax.EntropicProblem:
    """A problem of the registry's parts; the same seed gives the same numbers."""
    x, y = points(seed, n=n, m=m, d=d, dtype=dtype)
    a, b = masses(seed, n=n, m=m, zeros=zeros, totals=totals, dtype=dtype)
    geometry = ENGINES[engine](x, y, COSTS[cost]())
    return otjax.EntropicProblem(
        geometry, a, b, epsilon=epsilon, marginals=MARGINALS[marginals](rho)
    )


def step_along(point: PyTree, direction: PyTree, size: float) -> PyTree:
    """`point + size * direction`."""
    return jax.tree.map(lambda p, v: p + jnp.asarray(size, p.dtype) * v, point, direction)


def central_difference(
    function: Callable[[PyTree], PyTree], point: PyTree, direction: PyTree, *, step: float = 3e-4
) -> PyTree:
    """The derivative of `function` along `direction`, by the central stencil of fourth order."""
    far, near, near_back, far_back = (
        function(step_along(point, direction, size * step)) for size in (2, 1, -1, -2)
    )
    return jax.tree.map(
        lambda p2, p1, m1, m2: (8 * (p1 - m1) - (p2 - m2)) / (12 * step),
        far, near, near_back, far_back,
    )  # fmt: skip


def inner_product(left: PyTree, right: PyTree) -> Array:
    """The sum over all leaves of their inner products."""
    products = jax.tree.map(lambda u, v: jnp.sum(u * v), left, right)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))
