"""The assignment problem: exact, as SciPy finds it, with potentials that prove it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.optimize import linear_sum_assignment

import otjax
from otjax import RESULTS
from otjax._augmenting import _shortest_path, augmenting_paths


def normal(rng, shape):
    return rng.normal(size=shape)


def integers(rng, shape):
    return rng.integers(-4, 5, size=shape).astype(float)


def forbidding(rng, shape):
    cost = rng.normal(size=shape)
    cost[rng.uniform(size=shape) < 0.5] = np.inf
    cost[np.arange(shape[0]), rng.permutation(shape[1])[: shape[0]]] = 3.0
    return cost


def near_points(rng, shape):
    x, y = rng.normal(size=(shape[0], 2)), rng.normal(size=(shape[1], 2))
    return np.sum((x[:, None] - y[None]) ** 2, axis=-1) - 5


def products(rng, shape):
    """Costs for which each path is as long as it can be."""
    return np.outer(rng.uniform(size=shape[0]), rng.uniform(size=shape[1]))


KINDS = (normal, integers, forbidding, near_points, products)


def optimum(cost):
    rows, columns = linear_sum_assignment(cost)
    return cost[rows, columns].sum()


def has(result, member):
    return np.asarray(jax.vmap(lambda one: one == member)(result))


def check_proof(cost, columns, value, f, g, *, atol):
    n, m = cost.shape
    assert len(set(columns.tolist())) == n and columns.min() >= 0 and columns.max() < m
    paid = cost[np.arange(n), columns]
    np.testing.assert_allclose(paid.sum(), value, atol=n * atol)
    slack = cost - f[:, None] - g[None, :]
    assert slack.min() >= -atol
    np.testing.assert_allclose(slack[np.arange(n), columns], 0, atol=atol)
    np.testing.assert_allclose(f.sum() + g.sum(), value, atol=n * atol)
    if n < m:
        assert g.max() <= 0
        np.testing.assert_array_equal(np.delete(g, columns), 0)
    else:
        np.testing.assert_allclose(f.mean(), g.mean(), atol=atol)


@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (23, 40)])
def test_costs_what_scipy_finds_and_proves_it(shape):
    rng = np.random.default_rng(shape)
    costs = np.stack([kind(rng, shape) for kind in KINDS for _ in range(4)])
    found = jax.vmap(otjax.assignment)(jnp.asarray(costs))
    assert has(found.result, RESULTS.successful).all()
    assert found.columns.dtype == jnp.int32
    for k, cost in enumerate(costs):
        np.testing.assert_allclose(found.value[k], optimum(cost), rtol=1e-9, atol=1e-9)
        f, g = (np.asarray(potential[k]) for potential in found.potentials)
        check_proof(cost, found.columns[k], found.value[k], f, g, atol=1e-12)


def test_single_precision():
    cost = np.random.default_rng(3).uniform(size=(48, 48)).astype(np.float32)
    found = otjax.assignment(jnp.asarray(cost))
    assert found.value.dtype == found.potentials[0].dtype == jnp.float32
    np.testing.assert_allclose(found.value, optimum(cost), rtol=1e-5)
    f, g = map(np.asarray, found.potentials)
    check_proof(cost, found.columns, found.value, f, g, atol=1e-6)


def test_a_batch_as_a_whole_is_the_same():
    """What accelerators do, whatever this machine has."""
    rng = np.random.default_rng(1)
    costs = np.stack([kind(rng, (9, 9)) for kind in KINDS])
    costs[2, 0] = np.inf
    columns, _, feasible = jax.jit(jax.vmap(augmenting_paths))(jnp.asarray(costs))
    np.testing.assert_array_equal(feasible, np.arange(len(KINDS)) != 2)
    for k in np.flatnonzero(feasible):
        np.testing.assert_allclose(
            costs[k][np.arange(9), columns[k]].sum(), optimum(costs[k]), rtol=1e-12
        )


def test_the_gradient_is_the_permutation():
    cost = jnp.asarray(forbidding(np.random.default_rng(5), (9, 9)))
    value = lambda cost: otjax.assignment(cost).value
    expected = np.eye(9)[np.asarray(otjax.assignment(cost).columns)]
    np.testing.assert_array_equal(jax.jit(jax.grad(value))(cost), expected)
    direction = jnp.asarray(np.random.default_rng(6).normal(size=(9, 9)))
    finite = jnp.where(jnp.isfinite(cost), cost, 100.0)
    _, slope = jax.jvp(value, (finite,), (direction,))
    np.testing.assert_allclose(slope, np.sum(expected * direction), rtol=1e-12)
    _, bend = jax.jvp(jax.grad(value), (finite,), (direction,))
    np.testing.assert_array_equal(bend, 0)
    of_potentials = jax.grad(lambda cost: jnp.sum(otjax.assignment(cost).potentials[0]))(finite)
    np.testing.assert_array_equal(of_potentials, 0)


def test_results_of_a_batch():
    good = normal(np.random.default_rng(0), (9, 9))
    lonely, crowded, unknown, endless, huge = (good.copy() for _ in range(5))
    lonely[3] = np.inf  # a row without a column
    crowded[:4, 3:] = np.inf  # four rows, three columns
    unknown[2, 2] = np.nan
    endless[2, 2] = -np.inf
    huge[2, 2] = 1e308
    costs = jnp.asarray(np.stack([good, lonely, crowded, unknown, endless, huge]))

    def solved(cost):
        found = otjax.assignment(cost)
        return found.value, found

    (_, found), gradients = jax.vmap(jax.value_and_grad(solved, has_aux=True))(costs)
    np.testing.assert_array_equal(has(found.result, RESULTS.successful), np.arange(6) == 0)
    infeasible, invalid = [1, 2], [3, 4, 5]
    assert has(found.result, RESULTS.infeasible)[infeasible].all()
    assert has(found.result, RESULTS.nonfinite_input)[invalid].all()
    np.testing.assert_array_equal(found.value[1:3], np.inf)
    np.testing.assert_array_equal(found.value[3:], np.nan)
    np.testing.assert_array_equal(gradients[1:], 0)
    np.testing.assert_array_equal(found.columns[3:], -1)
    for potential in found.potentials:
        np.testing.assert_array_equal(potential[1:], 0)
    np.testing.assert_allclose(found.value[0], optimum(good))


def test_ties_do_not_make_paths_longer():
    """Among equals a column without a row ends the search, though it is the last."""
    row_of = jnp.arange(64).astype(jnp.int32).at[-1].set(-1)
    cost, v = jnp.zeros((64, 64)), jnp.zeros(64)
    search = jax.jit(_shortest_path)
    end, length, _, _, visited = search(cost, row_of, v, jnp.asarray(63, jnp.int32))
    assert end == 63 and length == 0 and not visited.any()


@given(st.integers(0, 2**32 - 1))
def test_rows_columns_and_constants(seed):
    rng = np.random.default_rng(seed)
    cost = rng.normal(size=(9, 9))
    rows, columns = rng.permutation(9), rng.permutation(9)
    u, v = rng.normal(size=9), rng.normal(size=9)
    found = otjax.assignment(jnp.asarray(cost))
    moved = otjax.assignment(jnp.asarray((cost + u[:, None] + v[None, :])[rows][:, columns]))
    np.testing.assert_allclose(moved.value, found.value + u.sum() + v.sum(), rtol=1e-9)
    np.testing.assert_array_equal(columns[moved.columns], np.asarray(found.columns)[rows])


def test_one_trace():
    solve = jax.jit(eqx.debug.assert_max_traces(max_traces=1)(lambda c: otjax.assignment(c).value))
    for seed in range(3):
        solve(jnp.asarray(normal(np.random.default_rng(seed), (9, 9))))


@pytest.mark.parametrize(
    "cost, message",
    [
        (jnp.ones((3, 2)), "transpose"),
        (jnp.ones((3, 3), int), "floating"),
        (jnp.ones(3), "axes"),
    ],
)
def test_wrong_structure(cost, message):
    with pytest.raises(ValueError, match=f"`cost`.*{message}"):
        otjax.assignment(cost)
