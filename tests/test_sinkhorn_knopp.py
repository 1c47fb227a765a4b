"""Matrices scaled to marginals: as alternating normalisation has it, with implicit derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, inner_product, masses
from hypothesis import given, strategies as st

import otjax
from otjax import RESULTS


N, M = 5, 7


def alternated(matrix, a, b, steps=3000):
    """Rows and columns normalised in turn."""
    matrix, a, b = np.array(matrix), np.asarray(a), np.asarray(b)
    for _ in range(steps):
        row = matrix.sum(axis=1)
        matrix *= (a / np.where(row > 0, row, 1))[:, None]
        column = matrix.sum(axis=0)
        matrix *= (b / np.where(column > 0, column, 1))[None, :]
    return matrix


def rectangular():
    """A matrix with zeros and marginals with zeros, which leaves room for everybody."""
    matrix = np.random.default_rng(0).uniform(0.2, 2.0, size=(N, M))
    matrix[0, :3] = matrix[2, 4] = 0
    matrix[3] = 0
    a, b = (np.array(mass) for mass in masses(1, n=N, m=M, totals=(3.0, 3.0)))
    a[3] = b[5] = 0
    return (jnp.asarray(array) for array in (matrix, 3 * a / a.sum(), 3 * b / b.sum()))


def test_a_square_matrix_becomes_doubly_stochastic():
    matrix = np.random.default_rng(3).uniform(size=(N, N))
    scaled = otjax.sinkhorn_knopp(jnp.asarray(matrix))
    assert scaled.result == RESULTS.successful
    np.testing.assert_allclose(scaled.matrix.sum(axis=0), 1, atol=1e-11)
    np.testing.assert_allclose(scaled.matrix.sum(axis=1), 1, atol=1e-11)
    np.testing.assert_allclose(scaled.matrix, alternated(matrix, np.ones(N), np.ones(N)), rtol=1e-9)


def test_given_marginals_zeros_and_scalings():
    matrix, a, b = rectangular()
    scaled = otjax.sinkhorn_knopp(matrix, a, b)
    assert scaled.result == RESULTS.successful
    np.testing.assert_allclose(scaled.matrix, alternated(matrix, a, b), rtol=1e-9)
    np.testing.assert_array_equal(scaled.matrix[matrix == 0], 0)
    r, c = scaled.log_scalings
    assert r[3] == c[5] == -jnp.inf
    product = jnp.exp(r)[:, None] * matrix * jnp.exp(c)[None, :]
    np.testing.assert_allclose(product, scaled.matrix, rtol=1e-9)


def test_logarithms_are_the_same_matrix():
    matrix, a, b = rectangular()
    entries = otjax.sinkhorn_knopp(matrix, a, b)
    logs = otjax.sinkhorn_knopp_log(jnp.log(matrix) + 5000, a, b)  # whose entries overflow
    assert logs.result == RESULTS.successful
    np.testing.assert_allclose(logs.matrix, entries.matrix, rtol=1e-8)


@pytest.mark.slow
def test_two_by_two():
    """In closed form: the odds p / (1 - p) are the root of the cross ratio."""

    def share(matrix):
        root = jnp.sqrt(matrix[0, 0] * matrix[1, 1] / (matrix[0, 1] * matrix[1, 0]))
        return root / (1 + root)

    matrix = jnp.array([[2.0, 0.3], [0.7, 1.1]])
    found = lambda matrix: otjax.sinkhorn_knopp(matrix).matrix[0, 0]
    value, gradient = jax.value_and_grad(found)(matrix)
    np.testing.assert_allclose(value, share(matrix), rtol=1e-11)
    np.testing.assert_allclose(gradient, jax.grad(share)(matrix), rtol=1e-10)
    np.testing.assert_allclose(
        jax.hessian(found)(matrix), jax.hessian(share)(matrix), rtol=1e-8, atol=1e-12
    )


@pytest.mark.slow
def test_derivatives_in_both_modes():
    point = tuple(rectangular())
    rng = np.random.default_rng(7)
    # Zeros stay, and totals agree.
    d_matrix, d_a, d_b = (
        jnp.where(array > 0, jnp.asarray(rng.normal(size=array.shape)), 0.0) for array in point
    )
    d_b = jnp.where(point[2] > 0, d_b + (d_a.sum() - d_b.sum()) / 6, 0.0)
    weights = jnp.asarray(rng.normal(size=(N, M)))

    def weighted(point):
        matrix, a, b = point
        scaled = otjax.sinkhorn_knopp(matrix, a, b)
        return jnp.sum(weights * scaled.matrix**2) + scaled.log_scalings[0][1]

    direction = (d_matrix, d_a, d_b)
    both = jax.jit(lambda point: jax.jvp(weighted, (point,), (direction,)))
    expected = central_difference(lambda point: both(point)[0], point, direction)
    _, forward = both(point)
    gradient = jax.grad(weighted)(point)
    np.testing.assert_allclose(forward, expected, rtol=1e-7)
    np.testing.assert_allclose(inner_product(gradient, direction), expected, rtol=1e-7)
    np.testing.assert_array_equal(gradient[0][point[0] == 0], 0)
    logits = lambda logs: jnp.sum(weights * otjax.sinkhorn_knopp_log(logs, *point[1:]).matrix)
    np.testing.assert_array_equal(jax.grad(logits)(jnp.log(point[0]))[point[0] == 0], 0)


# One batch, so that each has its own verdict.
VERDICTS = {
    "full": (np.ones((4, 4)), RESULTS.successful),
    "blocks": (np.kron(np.eye(2), [[1.0, 2.0], [3.0, 1.0]]), RESULTS.successful),
    "tiny entries": (np.where(np.eye(4) > 0, 1.0, 1e-20), RESULTS.successful),
    "a cycle of tiny entries": (np.eye(4) + 1e-9 * np.roll(np.eye(4), 1, 1), RESULTS.successful),
    "triangular": (np.triu(np.ones((4, 4))), RESULTS.no_total_support),
    "two blocks and more": (
        np.kron(np.eye(2), np.ones((2, 2))) + np.eye(4, k=2),
        RESULTS.no_total_support,
    ),
    "three rows in two columns": (
        np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]),
        RESULTS.infeasible,
    ),
    "an empty row": (np.outer([1.0, 1, 0, 1], np.ones(4)), RESULTS.infeasible),
    "negative": (np.ones((4, 4)) - 2 * np.eye(4), RESULTS.negative_entries),
    "nan": (np.full((4, 4), np.nan), RESULTS.nonfinite_input),
    "infinite": (np.ones((4, 4)) + np.diag([0, np.inf, 0, 0]), RESULTS.nonfinite_input),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_what_the_zeros_allow(dtype):
    batch = jnp.asarray(np.stack([matrix for matrix, _ in VERDICTS.values()]), dtype)
    scaled = jax.vmap(otjax.sinkhorn_knopp)(batch)
    for k, (name, (_, verdict)) in enumerate(VERDICTS.items()):
        result = jax.tree.map(lambda leaf, k=k: leaf[k], scaled.result)
        assert result == verdict, (name, RESULTS[result])
    assert scaled.matrix.dtype == scaled.log_scalings[0].dtype == dtype
    assert jnp.all(jnp.isfinite(scaled.matrix))
    place = list(VERDICTS).index("triangular")
    np.testing.assert_allclose(scaled.matrix[place], np.eye(4), atol=1e-3)


def test_wrong_masses():
    matrix, a, b = rectangular()
    for wrong, result in (
        (2 * a, RESULTS.unequal_mass),
        (-a, RESULTS.invalid_mass),
        (a * jnp.nan, RESULTS.invalid_mass),
    ):
        scaled = otjax.sinkhorn_knopp(matrix, wrong, b)
        assert scaled.result == result
        assert jnp.all(jnp.isfinite(scaled.matrix))


def test_options_reach_the_solver():
    matrix, a, b = rectangular()
    fine, loose = (otjax.sinkhorn_knopp(matrix, a, b, tolerance=t) for t in (1e-10, 1e-2))
    assert fine.stats.marginal_error < 1e-10 < loose.stats.marginal_error < 1e-2
    short = otjax.sinkhorn_knopp(matrix, a, b, max_steps=2)
    assert short.stats.num_steps == 2 and short.result == RESULTS.max_steps_reached
    plain = otjax.Sinkhorn(
        tolerance=1e-10, acceleration=otjax.Plain(), annealing=otjax.NoAnnealing()
    )
    slow = otjax.sinkhorn_knopp_log(jnp.log(matrix), a, b, solver=plain)
    assert slow.stats.num_steps > fine.stats.num_steps
    np.testing.assert_allclose(slow.matrix, fine.matrix, rtol=1e-7)


@given(st.integers(0, 2**32 - 1))
def test_what_is_scaled_already_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.uniform(0.1, 1.0, size=(N, N))
    rows, columns = rng.permutation(N), rng.permutation(N)
    r, c = rng.uniform(0.1, 10.0, size=(2, N))
    scaled = otjax.sinkhorn_knopp(jnp.asarray(matrix)).matrix
    rescaled = (r[:, None] * matrix * c[None, :])[rows][:, columns]
    again = otjax.sinkhorn_knopp(jnp.asarray(rescaled)).matrix
    np.testing.assert_allclose(again, scaled[rows][:, columns], rtol=1e-9)
    transposed = otjax.sinkhorn_knopp(jnp.asarray(matrix.T)).matrix
    np.testing.assert_allclose(transposed, scaled.T, rtol=1e-9)


def test_one_trace():
    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def gradient(logits, tolerance):
        loss = lambda z: otjax.sinkhorn_knopp_log(z, tolerance=tolerance).matrix[0, 0]
        return jax.grad(loss)(logits)

    for seed in range(3):
        logits = jnp.asarray(np.random.default_rng(seed).normal(size=(N, N)))
        assert jnp.all(jnp.isfinite(gradient(logits, 10.0 ** -(8 + seed))))


@pytest.mark.parametrize("function", [otjax.sinkhorn_knopp, otjax.sinkhorn_knopp_log])
def test_wrong_structure(function):
    square = jnp.ones((3, 3))
    for call, message in (
        (lambda: function(jnp.ones((3, 2))), "must be square"),
        (lambda: function(jnp.ones((3, 2)), jnp.ones(3)), "must be square"),
        (lambda: function(jnp.ones((3, 3), int)), "floating"),
        (lambda: function(jnp.ones(3)), "axes"),
        (lambda: function(square, jnp.ones(2)), "`a` must have one number for each row"),
        (lambda: function(square, tolerance=-1.0), "`tolerance`"),
        (lambda: function(square, max_steps=-1), "`max_steps`"),
        (lambda: function(square, solver=otjax.Sinkhorn(), tolerance=0.1), "`tolerance`"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
