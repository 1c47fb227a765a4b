"""Transport through time against translations, quantiles, closed forms and finite differences."""

import sys

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from otjax import RESULTS
from otjax.flow import benamou_brenier


def centres(n):
    return (np.arange(n) + 0.5) / n


def bump(mean, width=0.08, shape=(48,)):
    """A Gaussian, of total mass 1."""
    axes = np.meshgrid(*map(centres, shape), indexing="ij")
    squares = sum((axis - m) ** 2 for axis, m in zip(axes, mean, strict=True))
    density = np.exp(-0.5 * squares / width**2)
    return jnp.asarray(density / density.sum())


def bumpy(seed, n=48):
    """A positive density without symmetry, of mean 1."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    waves = [np.cos(np.pi * k * centres(n) + phases[k - 1]) / k for k in (1, 2, 3)]
    density = np.exp(0.8 * sum(waves))
    return density / density.mean()


def by_quantiles(a, b):
    """The exact squared distance of piecewise constant densities on the unit interval."""
    levels = (np.arange(20_000) + 0.5) / 20_000
    inverses = [
        np.interp(
            levels, np.concatenate([[0], np.cumsum(d) / d.sum()]), np.linspace(0, 1, len(d) + 1)
        )
        for d in (np.asarray(a), np.asarray(b))
    ]
    return np.mean((inverses[0] - inverses[1]) ** 2)


def test_a_bump_is_carried_to_its_translate():
    a, b = bump([0.3]), bump([0.7])
    solution = benamou_brenier(a, b, num_times=25)
    assert solution.result == RESULTS.successful and solution.residual <= 3e-4
    np.testing.assert_allclose(solution.cost, 0.16, rtol=0.01)
    assert solution.density.shape == (25, 48)
    np.testing.assert_allclose(solution.density[0], a, atol=1e-12)
    np.testing.assert_allclose(solution.density[-1], b, atol=1e-12)
    np.testing.assert_allclose(np.sum(solution.density, axis=1), 1, rtol=1e-12)
    assert np.all(solution.density >= 0)
    # Half-way it is the bump half-way, and the same mass moves at the same speed at all times.
    assert np.sum(np.abs(solution.density[12] - bump([0.5]))) < 0.06
    assert solution.momentum.shape == (24, 1, 48)
    np.testing.assert_allclose(np.sum(solution.momentum, axis=(1, 2)), 0.4, rtol=0.01)
    # The continuity equation, up to the tolerance, with momenta between the cells.
    flux = np.pad(np.asarray(solution.momentum)[:, 0], ((0, 0), (1, 1)))
    imbalance = 24 * np.diff(solution.density, axis=0) + 24 * (flux[:, 2:] - flux[:, :-2])
    assert np.abs(imbalance).mean() < 0.06 * np.abs(24 * np.diff(solution.density, axis=0)).mean()
    assert solution.source is None


@pytest.mark.parametrize("seed", [0, 1])
def test_on_the_line_the_cost_is_that_of_quantiles(seed):
    a, b = bumpy(seed), bumpy(seed + 5)
    solution = benamou_brenier(jnp.asarray(a), jnp.asarray(b), num_times=25)
    np.testing.assert_allclose(solution.cost, by_quantiles(a, b), rtol=0.01)
    # In any unit, that of the densities is the unit of what comes back.
    scaled = benamou_brenier(jnp.asarray(7 * a), jnp.asarray(7 * b), num_times=25)
    np.testing.assert_allclose(scaled.cost, solution.cost, rtol=1e-6)
    np.testing.assert_allclose(scaled.density, 7 * solution.density, rtol=1e-6)
    np.testing.assert_allclose(scaled.momentum, 7 * solution.momentum, atol=1e-5)


def test_in_space_products_cost_the_sum_of_their_factors():
    """And single precision stays single."""
    for d, n, dtype in ((2, 20, jnp.float32), (3, 10, jnp.float64)):
        factors = [(bumpy(k, n), bumpy(k + 5, n)) for k in range(d)]
        a, b = (
            jnp.asarray(np.prod(np.meshgrid(*side, indexing="ij"), axis=0), dtype)
            for side in zip(*factors, strict=True)
        )
        solution = benamou_brenier(a, b, num_times=9)
        expected = sum(by_quantiles(*pair) for pair in factors)
        np.testing.assert_allclose(solution.cost, expected, rtol=0.03)
        assert solution.density.shape == (9, *a.shape)
        assert solution.momentum.shape == (8, d, *a.shape)
        floats = (solution.cost, solution.density, solution.momentum, solution.residual)
        assert all(leaf.dtype == dtype for leaf in floats)


@pytest.mark.slow
def test_walls_are_gone_around():
    # A grid of two rows of which one is closed is a line.
    a, b = bump([0.3]), bump([0.7])
    rows = lambda density: jnp.stack([density, jnp.zeros_like(density)], axis=1)
    closed = np.zeros((48, 2), bool)
    closed[:, 1] = True
    corridor = benamou_brenier(rows(a), rows(b), num_times=25, obstacle=closed)
    line = benamou_brenier(a, b, num_times=25)
    np.testing.assert_allclose(corridor.cost, line.cost, rtol=2e-3)
    assert np.all(corridor.density[:, :, 1] == 0)
    inside = benamou_brenier(rows(a), rows(b)[:, ::-1], num_times=25, obstacle=closed)
    assert inside.result == RESULTS.invalid_mass
    nowhere = benamou_brenier(a, b, num_times=25, obstacle=np.zeros(48, bool))
    np.testing.assert_allclose(nowhere.cost, line.cost, rtol=1e-9)
    # A wall lengthens the way.
    shape = (16, 12)
    wall = np.zeros(shape, bool)
    wall[7:9, :8] = True
    a, b = (jnp.where(wall, 0, bump([x, 0.3], 0.09, shape)) for x in (0.25, 0.75))
    b = b * (jnp.sum(a) / jnp.sum(b))
    free, around = (
        benamou_brenier(a, b, num_times=9, obstacle=obstacle) for obstacle in (wall & False, wall)
    )
    assert around.cost > 2 * free.cost
    assert np.all(around.density[:, wall] == 0)
    above = [np.sum(s.density[4, :, 8:]) / np.sum(s.density[4]) for s in (free, around)]
    assert above[0] < 0.1 < 0.6 < above[1]


def test_mass_may_grow():
    """Without a way to go, the root of the mass is linear in time; far apart, mass dies and is
    born; where growth is dear, mass is moved."""
    grow = lambda a, b, growth: benamou_brenier(a, b, num_times=25, growth=growth)
    flat = jnp.ones(48)
    for growth in (0.2, 1.0):
        solution = grow(flat, 3 * flat, growth)
        assert solution.result == RESULTS.successful
        expected = 4 * growth**2 * (np.sqrt(3) - 1) ** 2 / 2  # for masses of mean 1
        np.testing.assert_allclose(solution.cost, expected, rtol=1e-3)
        roots = 1 + (np.sqrt(3) - 1) * np.linspace(0, 1, 25)
        np.testing.assert_allclose(np.mean(solution.density, axis=1), roots**2, rtol=1e-3)
        change = np.diff(np.mean(solution.density, axis=1)) * 24
        np.testing.assert_allclose(np.mean(solution.source, axis=1), change, rtol=1e-2)
    a, b = bump([0.3], 0.04), bump([0.7], 0.04)
    np.testing.assert_allclose(grow(a, b, 0.06).cost, 8 * 0.06**2, rtol=0.08)
    np.testing.assert_allclose(grow(a, b, 5.0).cost, 0.16, rtol=0.01)
    wrong = jax.jit(grow)(a, b, -0.1)
    assert wrong.result == RESULTS.invalid_growth and np.isfinite(wrong.cost)
    angle = 0.4 / (2 * 0.3)
    cone = 4 * 0.3**2 * (3 - 2 * np.sqrt(2) * np.cos(angle)) / 1.5  # of two points
    np.testing.assert_allclose(grow(a, 2 * b, 0.3).cost, cone, rtol=0.02)


def test_the_cost_is_differentiable_in_its_ends_and_in_the_growth():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.uniform(0.5, 1.5, 12)) for _ in range(2))
    way = [jnp.asarray(rng.normal(size=12)) for _ in range(2)]

    @jax.jit
    def balanced(ends):
        a, b = ends
        b = b * jnp.sum(a) / jnp.sum(b)
        return benamou_brenier(a, b, num_times=7, tolerance=1e-8, max_steps=20_000).cost

    @jax.jit
    def growing(numbers):
        a, b, growth = numbers
        options = {"growth": growth, "tolerance": 1e-7, "max_steps": 20_000}
        return benamou_brenier(a, b, num_times=7, **options).cost

    _, forward = jax.jit(lambda *args: jax.jvp(balanced, *args))(((a, b),), (tuple(way),))
    expected = helpers.central_difference(balanced, (a, b), tuple(way), step=1e-3)
    np.testing.assert_allclose(forward, expected, rtol=1e-5)
    point, direction = (a, 2 * b, jnp.asarray(0.2)), (*way, jnp.asarray(0.3))
    backward = helpers.inner_product(jax.jit(jax.grad(growing))(point), direction)
    expected = helpers.central_difference(growing, point, direction, step=1e-3)
    np.testing.assert_allclose(backward, expected, rtol=1e-5)


def test_what_is_wrong_is_told_and_nothing_is_nan():
    a, b = bump([0.3]), bump([0.7])
    run = lambda a, b, **options: benamou_brenier(a, b, num_times=25, **options)
    for wrong, result in (
        (1.1 * b, RESULTS.unequal_mass),
        (b.at[3].set(-0.1), RESULTS.invalid_mass),
        (b.at[3].set(jnp.nan), RESULTS.invalid_mass),
        (jnp.zeros_like(b), RESULTS.invalid_mass),
    ):
        solution = run(a, wrong)
        assert solution.result == result
        leaves = jax.tree.leaves(eqx.filter(solution, eqx.is_inexact_array))
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    # Up to its mass it was the same problem.
    np.testing.assert_allclose(run(a, 1.1 * b).cost, run(a, b).cost, rtol=1e-6)
    short = run(a, b, max_steps=5)
    assert short.result == RESULTS.max_steps_reached and short.num_steps == 5
    assert np.isfinite(run(a, b, max_steps=0).residual)
    assert run(a, b, tolerance=1e-2).num_steps < run(a, b).num_steps
    still = run(a, a)
    np.testing.assert_allclose(still.cost, 0, atol=1e-12)
    assert still.result == RESULTS.successful


def test_one_trace_for_new_numbers_and_batches_of_them(monkeypatch):
    seen, module = [], sys.modules["otjax.flow._benamou_brenier"]
    monkeypatch.setattr(
        module, "iterate", lambda *args, run=module.iterate: seen.append(None) or run(*args)
    )
    for growth in (0.1, 0.2):
        ends = jnp.linspace(0.1, 1, 11), jnp.linspace(1, growth, 11)
        benamou_brenier(*ends, num_times=4, growth=growth, tolerance=growth, max_steps=3)
    assert len(seen) == 1

    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.uniform(0.5, 1.5, (3, 12)))
    batch = batch / jnp.sum(batch, axis=1, keepdims=True)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(a, b, tolerance):
        solve = lambda b: benamou_brenier(a, b, num_times=7, tolerance=tolerance)
        return jax.vmap(solve)(b)

    for k in range(2):
        solutions = run(batch[k], batch, 1e-4 * (1 + k))
    single = benamou_brenier(batch[1], batch[2], num_times=7, tolerance=2e-4)
    np.testing.assert_allclose(solutions.cost[2], single.cost, rtol=1e-8)
    assert solutions.num_steps[2] == single.num_steps != solutions.num_steps[1]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"a": jnp.ones((2, 2, 2, 2))}, "a"),
        ({"a": jnp.ones(1)}, "a"),
        ({"b": jnp.ones(5)}, "b"),
        ({"b": jnp.ones(4, int)}, "b"),
        ({"num_times": 2}, "num_times"),
        ({"growth": -1.0}, "growth"),
        ({"obstacle": jnp.ones(4)}, "obstacle"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_steps": -1}, "max_steps"),
    ],
)
def test_wrong_structure_is_named(options, name):
    given = {"a": jnp.ones(4), "b": jnp.ones(4), "num_times": 5} | options
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"[`']{name}[`']"):
        benamou_brenier(given.pop("a"), given.pop("b"), **given)
