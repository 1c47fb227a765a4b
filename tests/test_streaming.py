"""The two engines agree, and the streamed one never needs the matrix."""

import functools as ft

import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import otjax
from otjax._reduction import least_rows, Pairs
from otjax._reduction._rows import block_rows


SOLVER = otjax.Sinkhorn(tolerance=1e-12)
CASES = [("SqEuclidean", 3), ("SqEuclidean", 10), ("Euclidean", 10), ("callable", 3)]


def _solve(x, y, a, b, epsilon, cost, engine) -> otjax.Solution:
    cloud = otjax.PointCloud(x, y, cost=helpers.COSTS[cost](), engine=engine)
    return otjax.solve(otjax.EntropicProblem(cloud, a, b, epsilon=epsilon), SOLVER)


@pytest.mark.parametrize("away", [0.0, 1e3])
@pytest.mark.parametrize("cost", ["SqEuclidean", "Euclidean"])
def test_mean_and_least_cost_without_the_matrix(cost: str, away: float) -> None:
    x, y = (away + points for points in helpers.points())
    a, b = helpers.masses(zeros=True)
    cloud = otjax.PointCloud(x, y, cost=helpers.COSTS[cost](), engine=otjax.Streamed())
    problem, _ = otjax.EntropicProblem(cloud, 3 * a, 3 * b).prepare()
    matrix = helpers.cost_matrix(x, y, helpers.COSTS[cost]())
    rows, columns = np.asarray(a) > 0, np.asarray(b) > 0
    np.testing.assert_allclose(problem.mean, a @ matrix @ b, rtol=1e-9)
    np.testing.assert_allclose(problem.least, matrix[rows][:, columns].min(), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("cost, d", CASES)
def test_values_plans_and_derivatives_agree(cost: str, d: int) -> None:
    x, y = helpers.points(d=d)
    a, b = helpers.masses(zeros=True)
    u, v = helpers.points(7, d=d)

    def everything(x, y, engine):
        solution = _solve(x, y, a, b, 2.0, cost, engine)
        outputs = (
            solution.value,
            solution.value_linear,
            solution.plan.mv(v[:, 0]),
            solution.plan.T.mv(u[:, 0]),
            solution.marginals,
            solution.transport(x),
        )
        return outputs, jnp.sum(solution.plan.as_matrix() ** 2)

    def scalar(x, y, engine):
        outputs, squares = everything(x, y, engine)
        return outputs[0] + outputs[1] + jnp.sum(outputs[5]) + squares

    def measured(engine):
        gradient = jax.grad(scalar, argnums=(0, 1))
        outputs = everything(x, y, engine)
        moved = jax.jvp(lambda x, y: gradient(x, y, engine), (x, y), (u, v))
        return outputs, moved

    dense, streamed = (
        jax.jit(measured, static_argnums=0)(otjax.Dense()),
        jax.jit(measured, static_argnums=0)(otjax.Streamed(helpers.BLOCK)),
    )
    jax.tree.map(
        lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-8, atol=1e-9), dense, streamed
    )


def test_points_of_many_coordinates_go_in_blocks_of_more_rows():
    """Each block reads all of y anew; where rows are very long, the cache counts for more."""
    rows = ft.partial(block_rows, 10**6, entries=2**18)
    pairs = lambda d, cost=otjax.SqEuclidean(): Pairs(jnp.zeros((2, d)), jnp.zeros((3, d)), cost)
    least = [least_rows(pairs(d)) for d in (3, 16, 784)] + [least_rows(pairs(64, jnp.vdot))]
    assert least == [6, 32, 128, 1]
    assert [rows(num_columns=2**16, least=number) for number in (1, 6, 128)] == [4, 4, 64]
    assert rows(num_columns=2**10, least=64) == 256
    assert rows(num_columns=2**20, least=128) == 4
    assert rows(num_columns=2**14, least=128) == 128
    x, y = (jr.normal(jr.key(i), (150 + i, 40)) for i in range(2))
    y = jnp.concatenate([y] * 60)  # 64, 64 and 22 rows
    assert block_rows(150, len(y), 2**18, least_rows(pairs(40))) == 64
    h, epsilon = jr.normal(jr.key(2), (len(y),)), jnp.asarray(3.0)
    dense, streamed = (
        otjax.PointCloud(x, y, engine=engine) for engine in (otjax.Dense(), otjax.Streamed())
    )
    f = dense.softmin(h, epsilon)
    np.testing.assert_allclose(streamed.softmin(h, epsilon), f, rtol=1e-12)
    products = [cloud.plan(f, h, epsilon).mv(y[:, :2]) for cloud in (dense, streamed)]
    np.testing.assert_allclose(*products, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("engine", helpers.ENGINES)
def test_plan_is_a_linear_operator(engine: str) -> None:
    plan = otjax.solve(helpers.make_problem(engine=engine)).plan
    matrix = plan.as_matrix()
    assert isinstance(plan, lx.AbstractLinearOperator)
    assert matrix.shape == (helpers.N, helpers.M) == (plan.out_size(), plan.in_size())
    vector = helpers.masses(4)
    np.testing.assert_allclose(plan.mv(vector[1]), matrix @ vector[1], rtol=1e-12)
    np.testing.assert_allclose(plan.T.mv(vector[0]), matrix.T @ vector[0], rtol=1e-12)
    np.testing.assert_allclose((2 * plan).mv(vector[1]), 2 * matrix @ vector[1], rtol=1e-12)
    np.testing.assert_allclose(lx.materialise(plan).as_matrix(), matrix, rtol=1e-12)
    np.testing.assert_allclose(lx.diagonal(plan), jnp.diagonal(matrix), rtol=1e-12)
    assert not lx.is_symmetric(plan)


def test_the_engine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix exists where it was asked for or fits, and only there."""
    x, y = (jax.ShapeDtypeStruct((2000, 3), jnp.float32) for _ in range(2))
    matrix = 2000 * 2000 * 4

    def peak(engine: otjax.AbstractEngine | None) -> int:
        def value(x, y):
            cloud = otjax.PointCloud(x, y, engine=engine)
            return otjax.solve(otjax.EntropicProblem(cloud, epsilon=0.1), throw=False).value

        analysis = jax.jit(jax.value_and_grad(value)).lower(x, y).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert peak(otjax.Streamed()) < 0.5 * matrix < matrix <= peak(otjax.Dense())
    monkeypatch.setattr("otjax._reduction._choice.device_memory", lambda: 8 * matrix - 1)
    assert peak(None) < 0.5 * matrix
    monkeypatch.setattr("otjax._reduction._choice.device_memory", lambda: 8 * matrix)
    jax.clear_caches()
    assert peak(None) >= matrix


def test_memory_of_a_streamed_gradient() -> None:
    x, y = (jax.ShapeDtypeStruct((100_000, 3), jnp.float32) for _ in range(2))

    def value(x, y):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.1)
        return otjax.solve(problem, throw=False).value

    analysis = jax.jit(jax.value_and_grad(value)).lower(x, y).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 200e6 < 100_000**2 * 4
