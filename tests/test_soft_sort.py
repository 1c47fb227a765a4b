"""Soft sorting: smooth, equivariant, and hard in the limit."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference
from hypothesis import given, strategies as st
from scipy.special import logsumexp
from scipy.stats import rankdata

from otjax import soft_quantile, soft_rank, soft_sort, soft_top_k


N, K, Q = 8, 3, 0.3

FUNCTIONS = {
    "sort": soft_sort,
    "rank": soft_rank,
    "top k": lambda x, **options: soft_top_k(x, K, **options),
    "quantile": lambda x, **options: soft_quantile(x, Q, **options),
}


@ft.cache
def solved(name):
    """The sum of squares of a function, its gradients, and its result, compiled once."""

    def summed(x, epsilon, where):
        result = FUNCTIONS[name](x, where=where, epsilon=epsilon)
        return jnp.sum(result**2), result

    return jax.jit(jax.value_and_grad(summed, argnums=(0, 1), has_aux=True))


EVERYBODY = jnp.ones(N, bool)
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def numbers(seed=0, n=N, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=n), dtype)


@pytest.mark.slow
def test_the_limits_are_hard():
    x = numbers()
    hard = ft.partial(jax.tree.map, np.asarray)
    np.testing.assert_allclose(soft_sort(x, epsilon=1e-3), np.sort(x), atol=2e-3)
    np.testing.assert_allclose(soft_rank(x, epsilon=1e-3), rankdata(x), atol=2e-3)
    mask = hard(x) >= np.sort(x)[-K]
    np.testing.assert_allclose(soft_top_k(x, K, epsilon=1e-3), mask, atol=1e-6)
    for q in (0.0, 0.21, 0.5, 1.0):
        np.testing.assert_allclose(soft_quantile(x, q, epsilon=1e-3), np.quantile(x, q), atol=2e-3)


def test_no_order_is_left_at_a_large_epsilon():
    x, large = numbers(), 1e5
    np.testing.assert_allclose(soft_sort(x, epsilon=large), np.full(N, x.mean()), atol=1e-3)
    np.testing.assert_allclose(soft_rank(x, epsilon=large), (N + 1) / 2, atol=1e-3)
    np.testing.assert_allclose(soft_top_k(x, K, epsilon=large), K / N, atol=1e-3)
    np.testing.assert_allclose(soft_quantile(x, Q, epsilon=large), x.mean(), atol=1e-3)


def test_the_plan_is_that_of_entropic_transport():
    x, epsilon = numbers(), 0.1
    z = (np.asarray(x) - np.mean(x)) / np.std(x)
    targets = np.linspace(-np.sqrt(3), np.sqrt(3), N)
    scores, g = -((z[:, None] - targets[None, :]) ** 2) / epsilon, np.zeros(N)
    for _ in range(1000):
        f = -logsumexp(scores + g[None, :], axis=1)
        g = -logsumexp(scores + f[:, None], axis=0)
    plan = np.exp(scores + f[:, None] + g[None, :])
    np.testing.assert_allclose(soft_rank(x), plan @ np.arange(1, N + 1), rtol=1e-9)
    np.testing.assert_allclose(soft_sort(x), plan.T @ np.asarray(x), rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.1, 10))
def test_equivariance(seed, shift, scale):
    x = numbers(seed)
    order = np.random.default_rng(seed).permutation(N)
    moved = scale * x[order] + shift
    close = ft.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-7)
    close(soft_sort(moved), scale * soft_sort(x) + shift)
    close(soft_rank(moved), soft_rank(x)[order])
    close(soft_top_k(moved, K), soft_top_k(x, K)[order])
    close(soft_quantile(moved, Q), scale * soft_quantile(x, Q) + shift)
    # The other way round.
    close(soft_sort(-x), -soft_sort(x)[::-1])
    close(soft_rank(-x), N + 1 - soft_rank(x))
    close(soft_top_k(-x, N - K), 1 - soft_top_k(x, K))
    close(soft_quantile(-x, 1 - Q), -soft_quantile(x, Q))


@every_function
def test_derivatives_in_both_modes(name):
    x, epsilon = numbers(1), jnp.asarray(0.1)
    along = numbers(2), jnp.asarray(0.05)

    @jax.jit
    def both(point):
        given_ = lambda x, epsilon: FUNCTIONS[name](x, epsilon=epsilon)
        return jax.jvp(given_, point, along)

    value, forward = both((x, epsilon))
    expected = central_difference(lambda point: both(point)[0], (x, epsilon), along)
    np.testing.assert_allclose(forward, expected, rtol=1e-6, atol=1e-8)
    (_, result), (of_x, of_epsilon) = solved(name)(x, 0.1, EVERYBODY)
    np.testing.assert_allclose(result, value, rtol=1e-10)
    backward = of_x @ along[0] + of_epsilon * along[1]
    np.testing.assert_allclose(backward, 2 * jnp.sum(value * expected), rtol=1e-6, atol=1e-8)


def test_a_second_derivative():
    x, direction = numbers(1), numbers(2)
    slope = jax.grad(lambda x: jnp.sum(soft_rank(x) ** 2))
    both = jax.jit(lambda x: jax.jvp(slope, (x,), (direction,)))
    expected = central_difference(lambda x: both(x)[0], x, direction)
    np.testing.assert_allclose(both(x)[1], expected, rtol=1e-5, atol=1e-5)


def test_the_derivative_in_q():
    x = numbers(1)
    quantile = jax.jit(jax.value_and_grad(lambda q: soft_quantile(x, q)))
    expected = central_difference(lambda q: quantile(q)[0], jnp.asarray(Q), jnp.asarray(1.0))
    np.testing.assert_allclose(quantile(Q)[1], expected, rtol=1e-7)
    values, slopes = jax.vmap(quantile)(jnp.linspace(0.0, 1.0, 5))
    assert jnp.all(jnp.diff(values) > 0)
    assert jnp.all(jnp.isfinite(slopes))


@every_function
def test_what_does_not_exist_changes_nothing(name):
    x = numbers(3, n=N - 3)
    where = jnp.array([True, False, True, True, False, True, True, False])
    padded = jnp.full(N, jnp.nan).at[jnp.flatnonzero(where)].set(x)
    (_, alone), (gradient, of_epsilon) = solved(name)(x, 0.1, EVERYBODY[3:])
    (_, together), (padded_gradient, padded_of_epsilon) = solved(name)(padded, 0.1, where)
    np.testing.assert_allclose(padded_gradient[where], gradient, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(padded_gradient[~where], 0)
    np.testing.assert_allclose(padded_of_epsilon, of_epsilon, rtol=1e-6, atol=1e-9)
    if together.ndim:
        # Sorted values come first, all else stays at its place.
        place = jnp.arange(N) < N - 3 if name == "sort" else where
        np.testing.assert_array_equal(together[~place], 0)
        together = together[place]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def test_segments():
    x = numbers(4)
    first = jnp.arange(N) < N // 2
    ranks = jax.vmap(lambda where: soft_rank(x, where=where))(jnp.stack([first, ~first]))
    np.testing.assert_allclose(ranks[0, : N // 2], soft_rank(x[: N // 2]), rtol=1e-9)
    np.testing.assert_allclose(ranks[1, N // 2 :], soft_rank(x[N // 2 :]), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [pytest.param(0.1, marks=pytest.mark.slow), 0.01])
def test_sums_and_ranges_in_single_precision(epsilon):
    n = 200
    x = numbers(5, n=n, dtype=jnp.float32)
    mask, ranks, values = (
        f(x, epsilon=epsilon) for f in (FUNCTIONS["top k"], soft_rank, soft_sort)
    )
    quantile = soft_quantile(x, Q, epsilon=epsilon)
    assert mask.dtype == ranks.dtype == values.dtype == quantile.dtype == jnp.float32
    assert 0 <= mask.min() and mask.max() <= 1
    np.testing.assert_allclose(mask.sum(), K, rtol=1e-3)
    assert 1 <= ranks.min() and ranks.max() <= n
    np.testing.assert_allclose(ranks.sum(), n * (n + 1) / 2, rtol=1e-4)
    np.testing.assert_allclose(values.sum(), x.sum(), atol=1e-3 * n**0.5)
    double = soft_quantile(x.astype(jnp.float64), Q, epsilon=epsilon)
    np.testing.assert_allclose(quantile, double, atol=1e-4)


@pytest.mark.slow
def test_equal_numbers_and_single_ones():
    same = jnp.full(N, 1e6) + 1e-10
    np.testing.assert_allclose(soft_sort(same), same, rtol=1e-12)
    np.testing.assert_allclose(soft_rank(same), (N + 1) / 2, rtol=1e-12)
    np.testing.assert_allclose(soft_top_k(same, K), K / N, rtol=1e-12)
    np.testing.assert_allclose(soft_quantile(same, Q), same[0], rtol=1e-12)
    _, (gradient, _) = solved("sort")(same, 0.1, EVERYBODY)
    assert jnp.all(jnp.isfinite(gradient))
    one = jnp.array([2.5])
    assert soft_sort(one) == 2.5
    np.testing.assert_allclose(soft_top_k(numbers(), N), 1)


@every_function
def test_input_without_meaning_is_nan_with_gradient_zero(name):
    x = numbers()
    for bad, epsilon in ((x.at[2].set(jnp.nan), 0.1), (x.at[2].set(jnp.inf), 0.1), (x, -1.0)):
        (value, _), gradients = solved(name)(bad, epsilon, EVERYBODY)
        assert jnp.isnan(value)
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)


@pytest.mark.slow
def test_traced_choices_out_of_range():
    x = numbers()
    top = jax.jit(jax.value_and_grad(lambda x, k: jnp.sum(soft_top_k(x, k))))
    quantile = jax.jit(jax.value_and_grad(soft_quantile))
    np.testing.assert_allclose(top(x, K)[0], K, rtol=1e-9)
    for function, bad in ((top, 0), (top, N + 1), (quantile, -0.1), (quantile, 1.5)):
        value, gradient = function(x, bad)
        assert jnp.isnan(value)
        np.testing.assert_array_equal(gradient, 0)
    nobody = jnp.zeros(N, bool)
    assert jnp.isnan(soft_quantile(x, Q, where=nobody))
    assert jnp.all(jnp.isnan(soft_top_k(x, 1, where=nobody)))
    np.testing.assert_array_equal(soft_sort(x, where=nobody), 0)


def test_one_trace():
    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def ranks(x, epsilon, k):
        return soft_rank(x, epsilon=epsilon) + soft_top_k(x, k)

    for seed in range(3):
        ranks(numbers(seed), 0.1 + seed, 1 + seed)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: soft_top_k(x, 0), "`k` must be from 1 to the 8"),
        (lambda x: soft_top_k(x, N + 1), "`k` must be from 1 to the 8"),
        (lambda x: soft_top_k(x, -1), "`k` must be a whole number"),
        (lambda x: soft_quantile(x, -0.1), "`q` must be from 0 to 1"),
        (lambda x: soft_quantile(x, 1.1), "`q` must be from 0 to 1"),
        (lambda x: soft_quantile(x, jnp.ones(2)), "`q` must be one real number"),
        (lambda x: soft_sort(x, epsilon=0.0), "`epsilon` must be positive"),
        (lambda x: soft_sort(x[None]), "`x` must have axes"),
        (lambda x: soft_rank(jnp.arange(3)), "`x` must be of a floating dtype"),
        (lambda x: soft_rank(x, where=x), "`where` must be booleans"),
        (lambda x: soft_rank(x, where=x[1:] > 0), "`where` must be booleans"),
    ],
)
def test_wrong_structure(call, message):
    with pytest.raises(ValueError, match=message):
        call(numbers())
