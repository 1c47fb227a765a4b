"""Neural maps: convex by construction, right where the truth is known, and honest where not; the
Monge gap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import otjax
from otjax import neural, nn


MATRIX = jnp.array([[1.5, 0.4], [0.4, 0.6]], jnp.float32)
SHIFT = jnp.array([3.0, -40.0], jnp.float32)
STILL = neural.Descent(max_steps=1, batch_size=64, optimiser=optax.sgd(0.0))


class Half(eqx.Module):
    """Half the squared norm, by a parameter: its gradient is the identity."""

    weight: jax.Array

    def __call__(self, x):
        return 0.5 * self.weight * jnp.sum(jnp.square(x))


class Times(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight * x


def still():
    one = jnp.ones((), jnp.float32)
    return Half(one), Times(one)


def normal(key):
    return jr.normal(key, (64, 2), jnp.float32)


def affine(key):
    return SHIFT[None, :] + jnp.matmul(normal(key), MATRIX)


def bend(x):
    """The gradient of a convex function, far from linear."""
    return jnp.sinh(x)


def bent(key):
    return bend(normal(key))


def small(method):
    """Networks that train in seconds."""
    make = lambda seed: nn.QuadraticICNN(2, width=16, depth=2, key=jr.key(seed))
    cast = lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf
    predictor = make(1) if method.convex_predictor else neural.NearIdentity(2, 16, key=jr.key(1))
    return jax.tree.map(cast, (make(0), predictor))


def unexplained(found, truth=bend, seed=9):
    x = normal(jr.key(seed))
    squares = lambda points: float(jnp.sum(jnp.square(points)))
    spread = truth(x) - jnp.mean(truth(x), axis=0, keepdims=True)
    return squares(found.transport(x) - truth(x)) / squares(spread)


@pytest.mark.parametrize("size", [1, 5])
def test_the_network_is_convex_whatever_its_parameters(size):
    model = nn.QuadraticICNN(size, width=7, depth=3, key=jr.key(0))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    slope = jax.jit(lambda arrays, x: jax.vmap(jax.grad(eqx.combine(arrays, rest)))(x))
    rng = np.random.default_rng(0)
    for seed in range(5):
        drawn = jax.tree.map(lambda leaf: jnp.asarray(4 * rng.normal(size=leaf.shape)), arrays)
        x, z = jnp.asarray(rng.normal(size=(2, 200, size)) * 10.0 ** (seed - 2))
        # A function is convex if and only if its gradient is monotone.
        products = jnp.sum((slope(drawn, x) - slope(drawn, z)) * (x - z), axis=1)
        assert jnp.all(products >= 0) and jnp.all(jnp.isfinite(products))
    np.testing.assert_allclose(model.transport(x[0]), slope(arrays, x)[0], rtol=1e-6)


def test_networks_that_do_nothing_leave_the_best_linear_map():
    """Between Gaussians that is the truth, far from the origin too, and all parts fit."""
    found = neural.neural_map(normal, affine, key=jr.key(0), networks=still(), descent=STILL)
    zero, one = jnp.zeros(2, jnp.float32), jnp.eye(2, dtype=jnp.float32)
    cov = jnp.matmul(MATRIX.T, MATRIX)
    truth = otjax.gaussian_map(zero, one, SHIFT, cov)
    x = normal(jr.key(5))
    assert unexplained(found, truth) < 0.01
    distance = otjax.squared_bures_wasserstein(zero, one, SHIFT, cov)
    assert abs(found.value - distance) < 4 * found.value_error + 1e-3 * distance
    y = found.transport(x)
    np.testing.assert_allclose(found.inverse(y), x, atol=1e-3)
    products = jnp.sum(x * y, axis=1)
    np.testing.assert_allclose(found.potential(x) + found.conjugate(y), products, atol=1e-3)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(lambda x: found.potential(x[None])[0]))(x), y, atol=1e-3
    )
    assert found.residual < 1e-5 and found.error < 0.1
    assert found.result == otjax.RESULTS.successful and found.history.shape == (1,)


@pytest.mark.parametrize(
    "method, share",
    [
        (neural.Amortised(neural.Refinement(3)), 0.4),
        pytest.param(neural.Cycle(), 0.7, marks=pytest.mark.slow),  # slower
        pytest.param(neural.MinMax(num_inner=4), 0.4, marks=pytest.mark.slow),
    ],
    ids=["amortised", "cycle", "minmax"],
)
def test_a_map_is_learnt(method, share):
    start = neural.neural_map(
        normal, bent, key=jr.key(0), networks=still(), descent=STILL, throw=False
    )
    descent = neural.Descent(max_steps=400, optimiser=optax.adam(1e-2, b2=0.99))
    found = neural.neural_map(
        normal, bent, key=jr.key(0), networks=small(method), method=method, descent=descent
    )
    assert unexplained(found) < share * unexplained(start)
    assert found.error < start.error
    assert found.residual < 0.1
    assert found.history.shape == (400,)
    noise = 0.1 * found.value + 4 * found.value_error
    assert abs(jnp.mean(found.history[-50:]) - found.value) < noise


def test_points_stand_for_their_distribution():
    key_x, key_y = jr.split(jr.key(0))
    x = jr.normal(key_x, (40, 2), jnp.float32)
    y = x[::-1] * 2
    descent = neural.Descent(max_steps=1, batch_size=400, optimiser=optax.sgd(0.0))
    found = neural.neural_map(x, y, key=key_y, networks=still(), descent=descent)
    np.testing.assert_allclose(found.transport(x), 2 * x, atol=0.1)


@pytest.mark.parametrize("optimiser", [None, optax.sgd(0.3)], ids=["lbfgs", "sgd"])
def test_a_refinement_finds_the_conjugate(optimiser):
    potential = lambda x: jnp.sum(jnp.cosh(x)) + 0.5 * jnp.sum(jnp.square(x[0] + x[1]))
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 3)))
    y = jax.vmap(jax.grad(potential))(x)
    refine = lambda steps: jax.vmap(
        lambda y: neural.Refinement(steps, optimiser=optimiser)(potential, jnp.zeros(3), y)
    )(y)
    np.testing.assert_allclose(refine(60), x, atol=1e-6)
    np.testing.assert_array_equal(refine(0), jnp.zeros((6, 3)))
    error = lambda x: jnp.sum(jnp.square(jax.vmap(jax.grad(potential))(x) - y), axis=1)
    assert jnp.all(error(refine(2)) <= error(jnp.zeros((6, 3))))


def test_the_inverse_has_derivatives():
    matrix = jnp.array([[2.0, 0.3], [0.3, 1.0]])

    def at(scale, y):
        potential = jax.tree_util.Partial(
            lambda scale, x: 0.5 * scale * x @ matrix @ x + jnp.sum(jnp.cosh(x)), scale
        )
        return neural._refinement.inverse(potential, neural.Refinement(40), jnp.zeros(2), y)

    y, scale = jnp.array([0.7, -0.4]), jnp.asarray(1.3)
    step = 1e-5
    for number, shift in ((0, jnp.asarray(step)), (1, jnp.array([step, 0.0]))):
        ahead, behind = (
            at(*(arg + sign * shift if i == number else arg for i, arg in enumerate((scale, y))))
            for sign in (1, -1)
        )
        exact = jax.jacobian(at, number)(scale, y)
        exact = exact if number == 0 else exact[:, 0]
        np.testing.assert_allclose(exact, (ahead - behind) / (2 * step), rtol=1e-5)


def test_losses_are_what_they_are_called():
    potential = lambda x: jnp.sum(jnp.square(x))
    predictor = lambda y: y + 1
    y = jnp.array([[0.0, 1.0], [2.0, -1.0]])
    x = predictor(y)
    best = y / 2
    loss = lambda method: method.predictor_loss(potential, predictor, y, best)
    game = jnp.mean(jnp.sum(x * x, axis=1) - jnp.sum(x * y, axis=1))
    np.testing.assert_allclose(loss(neural.MinMax()), game)
    cycle = jnp.mean(jnp.sum(jnp.square(2 * x - y), axis=1))
    np.testing.assert_allclose(loss(neural.Cycle(0.5)), 0.5 * cycle)
    np.testing.assert_allclose(loss(neural.Amortised()), jnp.mean(jnp.sum((x - best) ** 2, axis=1)))
    np.testing.assert_allclose(
        neural.Amortised().conjugate(potential, predictor, y), best, atol=1e-6
    )
    np.testing.assert_allclose(neural.Cycle().conjugate(potential, predictor, y), x)
    envelope = -jnp.mean(jnp.sum(x * x, axis=1))
    np.testing.assert_allclose(neural.MinMax().potential_loss(potential, y, x), envelope)
    np.testing.assert_allclose(
        neural.Cycle(0.5).potential_loss(potential, y, x), envelope + 0.5 * cycle
    )


def test_statuses_and_what_does_not_fit(unchecked):
    solve = lambda *args, **kwargs: neural.neural_map(
        *args, **{"key": jr.key(0), "networks": still(), "descent": STILL, **kwargs}
    )
    with pytest.raises(RuntimeError, match="`max_steps`"):
        solve(normal, bent, tolerance=1e-3)
    bad = solve(normal, lambda key: normal(key) * jnp.nan, throw=False)
    assert bad.result == otjax.RESULTS.nonfinite_input
    assert jnp.isfinite(bad.value) and jnp.all(jnp.isfinite(bad.transport(normal(jr.key(1)))))
    wild = neural.Descent(max_steps=2, batch_size=64, optimiser=optax.scale(jnp.inf))
    wild = solve(normal, bent, descent=wild, throw=False)
    assert wild.result == otjax.RESULTS.nonfinite and jnp.isfinite(wild.value)

    x = jnp.zeros((5, 2), jnp.float32)
    wrong = {
        "`source`": lambda: solve(lambda key: 3.0, x),
        "`target`": lambda: solve(x, jnp.zeros((5, 3), jnp.float32)),
        "`networks`": lambda: solve(x, x, networks=still()[0]),
        "`networks\\[0\\]`": lambda: solve(x, x, networks=still()[::-1]),
        "`networks\\[1\\]`": lambda: solve(x, x, networks=(still()[0], lambda x: x[:1])),
        "`method`": lambda: solve(x, x, method="cycle"),
        "`descent`": lambda: solve(x, x, descent=300),
        "`tolerance`": lambda: solve(x, x, tolerance=0.0),
        "`max_steps`": lambda: neural.Descent(max_steps=0),
        "`batch_size`": lambda: neural.Descent(batch_size=1),
        "`num_tests`": lambda: neural.Descent(num_tests=1),
        "`num_inner`": lambda: neural.MinMax(num_inner=0),
        "`weight`": lambda: neural.Cycle(-1.0),
        "`refinement`": lambda: neural.Amortised(3),
        "`max_steps` ": lambda: neural.Refinement(-1),
        "`x`": lambda: bad.transport(jnp.zeros((4, 3), jnp.float32)),
        "`images`": lambda: otjax.monge_gap(x, x[:3]),
    }
    for name, call in wrong.items():
        with pytest.raises(ValueError, match=name.strip()):
            call()


@pytest.mark.slow
def test_the_gap_of_a_map_is_what_it_pays_too_much():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(30, 2)))
    gap = lambda images, **options: float(otjax.monge_gap(x, images, **options))
    paid = jnp.mean(jnp.sum(jnp.square(2 * x), axis=1))
    exact = otjax.wasserstein(x, -x, gap=0) ** 2
    np.testing.assert_allclose(gap(-x, epsilon=0.01), paid - exact, atol=0.01 * np.log(30))
    # The gradient of a convex function is optimal.
    assert -0.1 * np.log(30) <= gap(bend(x), epsilon=0.1) <= 1e-9
    cost = otjax.Euclidean()
    problem = otjax.EntropicProblem(otjax.PointCloud(x, -x, cost=cost), epsilon=0.3)
    expected = jnp.mean(jnp.linalg.norm(2 * x, axis=1)) - otjax.solve(problem).value
    np.testing.assert_allclose(gap(-x, epsilon=0.3, cost=cost), expected, atol=1e-9)
    a = jnp.where(jnp.arange(30) < 20, 1 / 20, 0.0)
    few = otjax.monge_gap(x[:20], -x[:20], epsilon=0.3)
    np.testing.assert_allclose(otjax.monge_gap(x, -x, a, epsilon=0.3), few, atol=1e-8)


@pytest.mark.slow
def test_the_gap_has_a_gradient_and_no_number_for_what_is_none():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(12, 2)))
    gap = jax.jit(lambda t: otjax.monge_gap(x, t * x[::-1] + jnp.sin(x), epsilon=0.2))
    slope = jax.grad(gap)(0.7)
    np.testing.assert_allclose(slope, (gap(0.7 + 1e-5) - gap(0.7 - 1e-5)) / 2e-5, rtol=1e-6)
    bad = x.at[0, 0].set(jnp.nan)
    value, gradient = jax.value_and_grad(lambda y: otjax.monge_gap(x, y, epsilon=0.2))(bad)
    assert jnp.isnan(value)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(x))
