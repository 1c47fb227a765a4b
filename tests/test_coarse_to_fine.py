"""Cells first: fewer steps on all points, and the same solution."""

import functools as ft

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax
from otjax import RESULTS
from otjax._geometry._cells import cells_of, centres
from otjax._solver import _choice


def clouds(n, m, d, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), 0.5 + 0.6 * rng.normal(size=(m, d))
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


@ft.partial(jax.jit, static_argnames=("make", "marginals"))
def both(x, y, a, b, solvers, *, make=otjax.PointCloud, marginals="balanced"):
    """The solution of each solver."""

    def one(solver):
        problem = otjax.EntropicProblem(
            make(x, y),
            a,
            b,
            epsilon=otjax.Relative(0.01),
            marginals=helpers.MARGINALS[marginals](3.0),
        )
        solution = otjax.solve(problem, solver, throw=False)
        plan = solution.plan
        row, column = plan.mv(jnp.ones_like(b)), plan.T.mv(jnp.ones_like(a))
        return solution.value, solution.stats, solution.result, (row, column)

    return [one(solver) for solver in solvers]


def check(solved, a, b, balanced=True):
    (value, plain, *_), (same, stats, result, marginals) = solved
    assert result == RESULTS.successful
    np.testing.assert_allclose(same, value, rtol=1e-3)
    assert int(stats.num_steps) < int(plain.num_steps)
    if balanced:  # the error is that of the plan that is handed out
        error = sum(
            jnp.sum(jnp.abs(got - want)) for got, want in zip(marginals, (a, b), strict=True)
        )
        np.testing.assert_allclose(error, stats.marginal_error, rtol=0.1, atol=1e-6)


def uniform(n, m, zeros=False):
    return helpers.masses(n=n, m=m, zeros=zeros, dtype=jnp.float32)


SINKHORN = otjax.Sinkhorn()
SOLVERS = SINKHORN, otjax.CoarseToFine(SINKHORN, cells=128)


def test_fewer_steps_on_all_points():
    x, y = clouds(500, 400, 2)
    a, b = uniform(500, 400)
    check(both(x, y, a, b, SOLVERS), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("d, marginals", [(3, "unbalanced"), (8, "balanced")])
def test_clusters_streams_and_points_without_mass(d, marginals):
    x, y = clouds(500, 400, d)
    a, b = uniform(500, 400, zeros=True)
    x = x.at[0].set(jnp.nan)  # where there is no mass
    streamed = ft.partial(otjax.PointCloud, engine=otjax.Streamed())
    solvers = SINKHORN, otjax.CoarseToFine(SINKHORN, cells=200)
    solved = both(x, y, a, b, solvers, make=streamed, marginals=marginals)
    check(solved, a, b, marginals == "balanced")


@pytest.mark.slow
def test_grids():
    t = jnp.linspace(0, 1, 24, dtype=jnp.float32)
    u, v = jnp.meshgrid(t, t, indexing="ij")
    blob = lambda x, y: jnp.exp(-40 * ((u - x) ** 2 + (v - y) ** 2)).ravel() + 1e-4
    a, b = (image / jnp.sum(image) for image in (blob(0.3, 0.3) + blob(0.7, 0.4), blob(0.6, 0.8)))
    solvers = SINKHORN, otjax.CoarseToFine(SINKHORN, cells=144)
    check(both(t, t, a, b, solvers, make=lambda x, y: otjax.Grid((x, y))), a, b)


@pytest.mark.slow
def test_a_batch_and_its_gradient():
    x, y = clouds(60, 50, 2, jnp.float64)
    a, b = helpers.masses(n=60, m=50)

    def gradients(solver):
        def value(x, y):
            problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=0.1)
            return otjax.solve(problem, solver, throw=False).value

        return jax.jit(jax.vmap(jax.value_and_grad(value)))(
            jnp.stack([x, 2 * x]), jnp.stack([y, y])
        )

    default = gradients(otjax.CoarseToFine(cells=20))  # in float64 that is `Adaptive`
    jax.tree.map(
        lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-6, atol=1e-8),
        default,
        gradients(otjax.Adaptive()),
    )


@pytest.mark.parametrize("d", [1, 3, 6])
def test_cells_hold_points_that_are_near(d):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(600, d)), jnp.float32)
    masses = jnp.ones(600, jnp.float32).at[:100].set(0)
    cells = jax.jit(lambda x, masses: cells_of(x, masses, 64))(x, masses)
    middles, totals = centres(x, masses, cells, 64)
    assert cells.shape == (600,) and int(jnp.min(cells)) >= 0 and int(jnp.max(cells)) < 64
    np.testing.assert_allclose(jnp.sum(totals), 500, rtol=1e-6)
    spread = jnp.sum(masses[:, None] * jnp.square(x - middles[cells])) / 500
    # Of equal balls that fill the same space the share is 64^(-2/d).
    assert spread < 3 * 64 ** (-2 / d) * d
    if d <= 3:
        assert jnp.max(totals) <= 2 + 500 / 64


def test_large_grids_and_clouds_of_few_dimensions_begin_with_cells(monkeypatch):
    monkeypatch.setattr(_choice, "_MANY_PAIRS", 500 * 400 - 1)

    def chosen(n=500, d=3, dtype=jnp.float32, geometry=None, **options):
        cloud = (
            otjax.PointCloud(*clouds(n, 400, d, dtype), **options) if geometry is None else geometry
        )
        return _choice.chosen_solver(None, 1e-3, otjax.EntropicProblem(cloud))

    solver = chosen()
    assert isinstance(solver, otjax.CoarseToFine) and isinstance(solver.solver, otjax.Sinkhorn)
    np.testing.assert_allclose(solver.solver.tolerance, 1e-3)
    assert isinstance(chosen(dtype=jnp.float64).solver, otjax.Adaptive)
    t, s = jnp.arange(25, dtype=jnp.float32), jnp.arange(20, dtype=jnp.float32)
    assert isinstance(chosen(geometry=otjax.Grid((t, s), (s, s))), otjax.CoarseToFine)
    matrix = otjax.CostMatrix(jnp.zeros((500, 400), jnp.float32))
    for other in (
        chosen(n=499),
        chosen(d=4),
        chosen(geometry=matrix),
        chosen(geometry=otjax.Grid((s, s))),
        chosen(geometry=otjax.Grid((t, s), cost=lambda x, y: jnp.sum(jnp.abs(x - y)))),
        chosen(cost=lambda x, y: jnp.sum(jnp.abs(x - y))),  # it may forbid pairs
    ):
        assert isinstance(other, otjax.Sinkhorn)
    # Mass that is left belongs to a point that is in no cell.
    partial = otjax.EntropicProblem(
        otjax.PointCloud(*clouds(500, 400, 2)), marginals=otjax.Partial(0.5)
    )
    assert isinstance(_choice.chosen_solver(None, None, partial), otjax.Sinkhorn)
    mine = otjax.LBFGS()
    assert _choice.chosen_solver(mine, None, partial) is mine


def test_the_default_of_a_large_cloud(monkeypatch):
    x, y = clouds(5000, 400, 2)
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=otjax.Relative(0.01))
    alone = otjax.solve(problem, tolerance=1e-3)
    monkeypatch.setattr(_choice, "_MANY_PAIRS", 10**6)
    solution = otjax.solve(problem, tolerance=1e-3)
    assert int(solution.stats.num_steps) < 0.7 * int(alone.stats.num_steps)
    np.testing.assert_allclose(solution.value, alone.value, rtol=1e-3)


def test_what_it_cannot_do(unchecked):
    x, y = clouds(6, 5, 2)
    matrix = otjax.CostMatrix(helpers.cost_matrix(x, y, otjax.SqEuclidean()))
    with pytest.raises(ValueError, match="PointCloud"):
        otjax.solve(otjax.EntropicProblem(matrix), otjax.CoarseToFine())
    for cells in (1, 2.5, True):
        with pytest.raises(ValueError, match="`cells`"):
            otjax.CoarseToFine(cells=cells)
    with pytest.raises(ValueError, match="`solver`"):
        otjax.CoarseToFine(otjax.Sinkhorn)
