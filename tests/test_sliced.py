"""Sliced distances and plans: against POT, in chunks, and as bounds."""

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import ot
import pytest
from checks import check_derivatives
from helpers import central_difference

import otjax
from otjax import RESULTS


KEY = jax.random.key(5)


def clouds(seed=0, *, n=12, m=9, d=3, zeros=False, dtype=jnp.float64):
    x, y = helpers.points(seed, n=n, m=m, d=d, dtype=dtype)
    a, b = helpers.masses(seed, n=n, m=m, zeros=zeros, dtype=dtype)
    return x, y, a, b


def sliced(x, y, a=None, b=None, **options):
    options = {"num_projections": 10, "key": KEY} | options
    return otjax.sliced_wasserstein(x, y, a, b, **options)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_sliced_distances_are_those_of_pot(p):
    directions = otjax.random_directions(KEY, 10, 3)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=1), 1, rtol=1e-14)
    for x, y, *masses in (clouds(), (*clouds(m=12)[:2], None, None)):
        numpy = [None if mass is None else np.asarray(mass) for mass in masses]
        best = ot.sliced_wasserstein_distance(
            np.asarray(x), np.asarray(y), *numpy, p=p, projections=np.asarray(directions).T
        )
        np.testing.assert_allclose(sliced(x, y, *masses, p=p), best, rtol=1e-12)


def test_the_mean_over_directions_is_taken():
    # A translation along an axis has the mean square 1/d of its length.
    x = clouds(n=4)[0]
    moved = sliced(x, x + jnp.array([[2.0, 0.0, 0.0]]), num_projections=20_000)
    np.testing.assert_allclose(moved**2, 4 / 3, rtol=0.02)
    other = otjax.random_directions(jax.random.key(6), 10, 3)
    assert jnp.all(other != otjax.random_directions(KEY, 10, 3))
    assert otjax.random_directions(KEY, 2, 3, jnp.float32).dtype == jnp.float32


@pytest.mark.slow
def test_derivatives_are_those_of_differences():
    x, y, a, b = clouds(1, zeros=True)
    rng = np.random.default_rng(0)
    da = np.where(a > 0, rng.normal(size=12), 0)
    da = 0.02 * jnp.asarray(np.where(a > 0, da - da[a > 0].mean(), 0))
    first = 0.1 * jnp.asarray(rng.normal(size=x.shape)), da, jnp.asarray(0.1)
    second = 0.1 * jnp.asarray(rng.normal(size=x.shape)), -0.5 * da, jnp.asarray(0.2)
    function = lambda v: sliced(v[0], y, v[1], b, p=v[2], chunk=4)
    check_derivatives(function, (x, a, jnp.asarray(1.7)), first, second, step=1e-4)
    # Points without mass do not exist.
    by_points, by_masses = jax.grad(lambda x, a: sliced(x, y, a, b, p=1.7), (0, 1))(x, a)
    assert jnp.all(by_points[a == 0] == 0) and jnp.all(by_masses[a == 0] == 0)
    without = sliced(x[a > 0], y, a[a > 0], b, p=1.7)
    np.testing.assert_allclose(sliced(x, y, a, b, p=1.7), without, rtol=1e-13)


@pytest.mark.parametrize("num_projections", [3, 8, 30])
def test_as_many_points_without_masses_have_the_derivatives_of_equal_masses(num_projections):
    x, y = clouds(4, n=8, m=8)[:2]
    masses = jnp.full(8, 1 / 8)

    def loss(x, *masses):
        return otjax.sliced_wasserstein(x, y, *masses, num_projections=num_projections, key=KEY)

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        ours, theirs = derivative(loss)(x), derivative(loss)(x, masses, masses)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    step = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
    difference = (loss(x + 1e-6 * step) - loss(x - 1e-6 * step)) / 2e-6
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(x) * step), difference, rtol=1e-6)


def test_chunks_change_memory_and_nothing_else():
    x, y, a, b = clouds(2, n=500, m=400)
    loss = lambda x, chunk: sliced(x, y, a, b, num_projections=40, chunk=chunk)
    gradients, memory = [], []
    for chunk in (None, 3):
        compiled = jax.jit(jax.grad(lambda x, chunk=chunk: loss(x, chunk))).lower(x).compile()
        gradients.append(compiled(x))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-12)
    assert memory[1] < memory[0] / 5


def test_the_best_direction_is_found():
    x, y, a, b = clouds(3)
    shift = jnp.array([1.0, -2.0, 2.0])
    distance, found = otjax.max_sliced_wasserstein(x, x + shift[None], key=KEY, has_aux=True)
    np.testing.assert_allclose(distance, 3, rtol=1e-6)
    np.testing.assert_allclose(abs(found.direction @ shift), 3, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(found.direction), 1, rtol=1e-12)
    assert found.distances.shape == (8,) and jnp.max(found.distances) <= distance + 1e-12
    search = otjax.SphereAscent(num_starts=3, num_steps=40)
    distance, found = otjax.max_sliced_wasserstein(x, y, a, b, search=search, key=KEY, has_aux=True)
    tried = ot.max_sliced_wasserstein_distance(
        *(np.asarray(v) for v in (x, y, a, b)), n_projections=2000, seed=0
    )
    assert distance > tried - 1e-3 * tried
    assert found.distances.shape == (3,)
    assert distance == otjax.max_sliced_wasserstein(x, y, a, b, search=search, key=KEY)
    # Each option is heard: fewer steps, or steps that do not move, find less.
    for other in (
        otjax.SphereAscent(num_starts=3, num_steps=1),
        otjax.SphereAscent(num_starts=3, num_steps=40, optimiser=optax.sgd(0.0)),
    ):
        assert otjax.max_sliced_wasserstein(x, y, a, b, search=other, key=KEY) < distance
    along = lambda x, p=2: otjax.wasserstein_1d(x @ found.direction, y @ found.direction, a, b, p=p)
    loss = lambda x: otjax.max_sliced_wasserstein(x, y, a, b, search=search, key=KEY)
    np.testing.assert_allclose(jax.grad(loss)(x), jax.grad(along)(x), rtol=1e-9, atol=1e-12)
    with pytest.raises(Exception, match="second derivative"):
        jax.hessian(loss)(x)
    first_order = otjax.max_sliced_wasserstein(x, y, a, b, p=1, search=search, key=KEY)
    assert abs(first_order - distance) > 1e-3


def test_sliced_plans_are_feasible_and_bound_the_optimum():
    x, y, a, b = clouds(4, zeros=True)
    x = x.at[0].set(jnp.nan)  # of mass zero
    values = []
    for num_projections in (1, 200):
        solution = otjax.sliced_plan(x, y, a, b, num_projections=num_projections, key=KEY)
        plan = np.asarray(solution.plan.as_matrix())
        np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-15)
        np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-15)
        assert np.sum(plan > 0) <= 12 + 9 - 1
        values.append(solution.value)
    kept = np.asarray(a) > 0
    cost = ot.dist(np.asarray(x)[kept], np.asarray(y))
    best = ot.emd2(np.asarray(a)[kept], np.asarray(b), cost)
    np.testing.assert_allclose(solution.value, np.sum(plan[kept] * cost), rtol=1e-12)
    assert best < values[1] < values[0] and values[1] < 1.2 * best
    # Along a line there is one plan; it is the optimum.
    line = otjax.sliced_plan(y[:, :1], y[::-1, :1] + 0.3, b, b, num_projections=1, key=KEY)
    exact = otjax.transport_1d(y[:, 0], y[::-1, 0] + 0.3, b, b)
    np.testing.assert_allclose(line.value, exact.value, rtol=1e-12)
    # By points and masses at the plan, and for another cost.
    absolute = lambda y: otjax.sliced_plan(
        x, y, a, b, cost=otjax.Euclidean(), num_projections=30, key=KEY
    )
    move = 0.1 * jnp.asarray(np.random.default_rng(1).normal(size=y.shape))
    slope = jnp.sum(jax.grad(lambda y: absolute(y).value)(y) * move)
    np.testing.assert_allclose(
        slope, central_difference(lambda y: absolute(y).value, y, move), rtol=1e-8
    )
    assert absolute(y).value < values[0] ** 0.5
    uniform = otjax.sliced_plan(y, y[::-1] + 0.1, key=KEY, num_projections=20)
    assert uniform.mass.shape == (9,) and len(set(uniform.i.tolist())) == 9


def test_wrong_numbers_are_nan_or_named():
    x, y, a, b = clouds(5)
    wrong = (
        (RESULTS.nonfinite_input, (x.at[1, 1].set(jnp.nan), y, a, b)),
        (RESULTS.invalid_mass, (x, y, a.at[0].set(-1.0), b)),
        (RESULTS.unequal_mass, (x, y, 1.1 * a, b)),
    )
    search = otjax.SphereAscent(num_starts=3, num_steps=40)
    maximal = lambda *arrays: otjax.max_sliced_wasserstein(*arrays, search=search, key=KEY)
    for expected, inputs in wrong:
        for function in (sliced, maximal):
            value, gradients = jax.value_and_grad(function, (0, 1, 2, 3))(*inputs)
            assert jnp.isnan(value)
            assert all(jnp.all(gradient == 0) for gradient in gradients)
        solution = otjax.sliced_plan(*inputs, num_projections=200, key=KEY, throw=False)
        assert solution.result == expected and jnp.isfinite(solution.value)
        with pytest.raises(Exception, match="Clean|masses"):
            otjax.sliced_plan(*inputs, num_projections=200, key=KEY)
    assert jnp.isnan(jax.jit(lambda p: sliced(x, y, a, b, p=p))(0.5))


def test_wrong_structure_is_an_error():
    x, y, a, _ = clouds(6)
    wrong = {
        "`p`": lambda: sliced(x, y, p=0.9),
        "`x`": lambda: sliced(x[:, 0], y),
        "space": lambda: sliced(x, y[:, :2]),
        "dtype": lambda: sliced(x.astype(jnp.float32), y),
        "`a`": lambda: sliced(x, y, a[:3]),
        "empty": lambda: sliced(x[:0], y),
        "num_projections": lambda: sliced(x, y, num_projections=0),
        "chunk": lambda: sliced(x, y, chunk=0),
        "key": lambda: sliced(x, y, key=0),
        "num_starts": lambda: otjax.SphereAscent(num_starts=0),
        "search": lambda: otjax.max_sliced_wasserstein(x, y, search=3, key=KEY),
        "`cost`": lambda: otjax.sliced_plan(x, y, cost=otjax.Euclidean, key=KEY),
    }
    for match, call in wrong.items():
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=match):
            call()


def test_one_trace_and_single_precision():
    x, y, a, b = clouds(7, dtype=jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(x, key, p):
        return jax.grad(lambda x: sliced(x, y, a, b, key=key, p=p, chunk=4))(x)

    for k in range(3):
        x = x - step(x, jax.random.key(k), 1.0 + k)
    assert x.dtype == jnp.float32 and jnp.all(jnp.isfinite(x))
    batch = jax.vmap(lambda x: sliced(x, y, a, b, chunk=4))(jnp.stack([x, x + 1]))
    np.testing.assert_allclose(batch[1], sliced(x + 1, y, a, b), rtol=1e-5)
