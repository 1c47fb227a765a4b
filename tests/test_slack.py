"""Partial transport and penalties in total variation: mass that may be left."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import ot
import pytest
from checks import check_derivatives
from scipy.optimize import linprog

import otjax
from otjax._slack import WithSlack


def cloud(seed, n):
    return jr.normal(jr.key(seed), (n, 2)) + seed


def masses(seed, n, total):
    weights = 0.2 + jr.uniform(jr.key(seed), (n,))
    return total * weights / jnp.sum(weights)


X, Y = cloud(0, 9), cloud(1, 7)
A, B = masses(2, 9, 1.0), masses(3, 7, 1.3)


def solved(marginals, epsilon=3e-3, **kwargs):
    problem = otjax.EntropicProblem(
        otjax.PointCloud(X, Y), A, B, epsilon=epsilon, marginals=marginals
    )
    return otjax.solve(problem, **kwargs)


def squared_distances():
    return np.sum(np.square(np.asarray(X)[:, None] - np.asarray(Y)[None]), axis=2)


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_partial_transport_is_that_of_pot(share):
    found = solved(otjax.Partial(share))
    plan = ot.partial.partial_wasserstein(
        np.asarray(A), np.asarray(B), squared_distances(), m=share, nb_dummies=10
    )
    np.testing.assert_allclose(np.sum(found.marginals[0]), share, rtol=1e-6)
    assert np.all(found.marginals[0] <= A + 1e-8) and np.all(found.marginals[1] <= B + 1e-8)
    np.testing.assert_allclose(found.value_linear, np.sum(plan * squared_distances()), rtol=2e-2)
    np.testing.assert_allclose(found.plan.as_matrix(), plan, atol=2e-2)


def test_a_share_of_one_of_equal_masses_is_balanced():
    problem = lambda marginals: otjax.EntropicProblem(
        otjax.PointCloud(X, Y), epsilon=0.2, marginals=marginals
    )
    partial, balanced = (
        otjax.solve(problem(otjax.Partial(1.0))),
        otjax.solve(problem(otjax.Balanced())),
    )
    np.testing.assert_allclose(
        partial.plan.as_matrix(), balanced.plan.as_matrix(), rtol=1e-6, atol=1e-12
    )
    np.testing.assert_allclose(partial.value, balanced.value, rtol=1e-8)


@pytest.mark.parametrize("sides", ["both", "one"])
def test_total_variation_is_that_of_a_linear_program(sides):
    rho, n, m = 1.5, 9, 7
    side = otjax.TotalVariation(rho)
    found = solved(side if sides == "both" else (otjax.Balanced(), side))
    cost = squared_distances()
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    if sides == "both":
        program = linprog(
            cost.ravel() - 2 * rho, A_ub=np.vstack([rows, columns]), b_ub=np.append(A, B)
        )
        expected = program.fun + rho * 2.3
    else:
        program = linprog(cost.ravel() - rho, A_ub=columns, b_ub=B, A_eq=rows, b_eq=A)
        expected = program.fun + rho * 1.3
    row, column = found.marginals
    left = np.sum(np.abs(A - row)) + np.sum(np.abs(B - column))
    np.testing.assert_allclose(found.value_linear + rho * left, expected, rtol=2e-2)
    if sides == "both":
        far = cost > 2 * rho + 0.1
        assert np.max(np.asarray(found.plan.as_matrix())[far]) < 1e-6
    else:
        np.testing.assert_allclose(row, A, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["partial", "variation"])
def test_derivatives_by_every_number(kind):
    def function(numbers):
        x, a, epsilon, number = numbers
        side = otjax.Partial(number) if kind == "partial" else otjax.TotalVariation(2 * number)
        problem = otjax.EntropicProblem(
            otjax.PointCloud(x, Y), a, B, epsilon=epsilon, marginals=side
        )
        found = otjax.solve(problem, tolerance=1e-12, throw=False)
        return found.value + jnp.sum(jnp.sin(found.plan.mv(Y[:, 0]))) + found.value_linear

    numbers = X, A, jnp.asarray(0.4), jnp.asarray(0.6)
    first = X[::-1], 0.1 * A, jnp.asarray(0.3), jnp.asarray(0.2)
    second = 0.3 * X, 0.2 * A[::-1], jnp.asarray(-0.2), jnp.asarray(0.3)
    check_derivatives(function, numbers, first, second, rtol=2e-5)


@pytest.mark.slow
def test_the_geometry_keeps_the_contract():
    cost = jr.uniform(jr.key(0), (4, 3))
    number = jnp.asarray
    inside = otjax.CostMatrix(cost).prepare(jnp.ones(4), jnp.ones(3)).geometry
    geometry = WithSlack(inside, number(0.7), number(0.4), number(0.2))
    matrix = np.full((5, 4), 0.7)
    matrix[:4, :3], matrix[4], matrix[4, 3] = cost, 0.4, 0.2
    like = otjax.CostMatrix(jnp.asarray(matrix))
    epsilon = number(0.3)
    first, second = jr.uniform(jr.key(1), (5,)), jr.uniform(jr.key(2), (4,))
    sides = (geometry, like, first, second), (geometry.T, like.T, second, first)
    for ours, theirs, f, g in sides:
        np.testing.assert_allclose(ours.softmin(g, epsilon), theirs.softmin(g, epsilon))
        plan, expected = ours.plan(f, g, epsilon), theirs.plan(f, g, epsilon)
        np.testing.assert_allclose(plan.as_matrix(), expected.as_matrix())
        for vector in (g, jnp.stack([g, jnp.cos(g)], axis=1)):
            np.testing.assert_allclose(plan.mv(vector), expected.mv(vector))
        np.testing.assert_allclose(plan.T.mv(f), expected.T.mv(f))
        np.testing.assert_allclose(plan.squared_mv(g), expected.squared_mv(g))


def test_a_batch_and_a_warm_start():
    shares = jnp.array([0.2, 0.5])
    mass = lambda share: jnp.sum(solved(otjax.Partial(share), 0.1).marginals[0])
    np.testing.assert_allclose(jax.vmap(mass)(shares), shares, rtol=1e-6)
    found = solved(otjax.TotalVariation(1.0), 0.1)
    warm = solved(otjax.TotalVariation(1.0), 0.1, init=found.potentials)
    np.testing.assert_allclose(warm.value, found.value, rtol=1e-8)
    assert found.transport(X).shape == X.shape
    i, j = found.sample(jr.key(0), 10)
    assert np.all(np.asarray(found.plan.as_matrix())[i, j] > 0)


@pytest.fixture
def unchecked():
    """Arguments of wrong types reach the library, as where no types are checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_what_does_not_fit_is_said(unchecked):
    for share in (0.0, 1.2, jnp.nan):
        found = solved(otjax.Partial(share), 0.1, throw=False)
        assert found.result == otjax.RESULTS.invalid_share
        assert np.all(np.isfinite(found.plan.as_matrix()))
    for rho in (0.0, -1.0, jnp.inf):
        found = solved(otjax.TotalVariation(rho), 0.1, throw=False)
        assert found.result == otjax.RESULTS.invalid_rho
    mixed = (
        (otjax.Partial(0.5), otjax.Balanced()),
        (
            otjax.TotalVariation(1.0),
            otjax.Unbalanced(1.0),
        ),
    )
    for pair in mixed:
        with pytest.raises(ValueError, match="`marginals`"):
            solved(pair)
    with pytest.raises(ValueError, match="`share`"):
        otjax.Partial(jnp.ones(2))
    with pytest.raises(ValueError, match="`marginals` of a divergence"):
        otjax.sinkhorn_divergence(X, Y, epsilon=0.1, marginals=otjax.Partial(0.5))
    found = solved(otjax.Partial(0.5), 0.1)
    with pytest.raises(ValueError, match="leaves mass"):
        found.potential(X)
    with pytest.raises(ValueError, match="balanced"):
        otjax.certify(found)
