"""Couplings against plans, interpolants against their derivatives, losses against closed forms."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
import scipy.optimize

import otjax
from otjax import flow


KEY = jr.key(0)
# What compiles fastest; tests share sizes, so that they share programs.
solver = ft.partial(
    otjax.Sinkhorn, annealing=otjax.NoAnnealing(), acceleration=otjax.Overrelaxation()
)
FINE, LOOSE = solver(tolerance=1e-10), solver(tolerance=0.5)
minibatch = ft.partial(flow.Minibatch, FINE)


def clouds(n=24, m=24, d=2, dtype=jnp.float64, shift=1.0):
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(n, d)), shift + 0.5 * rng.normal(size=(m, d))
    return jnp.asarray(x0, dtype), jnp.asarray(x1, dtype)


def squared_distances(x, y):
    return np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=2)


def centred(x):
    return x - jnp.mean(x, axis=0, keepdims=True)


def spread_of(x0, x1):
    """The mean centred cost above the least."""
    costs = squared_distances(centred(x0), centred(x1))
    return costs.mean() - costs.min()


def law_of(x0, x1, epsilon, solver):
    """The law of the partner of each row in the plan, at a fraction of the spread."""
    epsilon = epsilon * spread_of(x0, x1)
    x0, x1 = centred(x0), centred(x1)
    problem = otjax.EntropicProblem(otjax.PointCloud(x0, x1), epsilon=epsilon)
    plan = np.asarray(otjax.solve(problem, solver).plan.as_matrix())
    return plan / plan.sum(axis=1, keepdims=True)


# Couplings


def test_rows_are_drawn_from_the_plan_whose_error_is_told():
    x0, x1 = clouds(4, 3, shift=5.0)  # the shift neither blurs the plan nor moves it
    costs, draws = squared_distances(x0, x1), {}
    for name, solver in (("fine", FINE), ("loose", LOOSE)):
        coupling, law = flow.Minibatch(solver, epsilon=0.3), law_of(x0, x1, 0.3, solver)
        assert law.max(axis=1).min() < 0.7
        draw = jax.vmap(lambda key, c=coupling: c.pairs(key, x0, x1))(jr.split(KEY, 4000))
        counts = np.zeros((4, 3))
        np.add.at(counts, (np.asarray(draw.i), np.asarray(draw.j)), 1)
        np.testing.assert_array_equal(counts.sum(axis=1), 4000)  # each row once
        np.testing.assert_allclose(counts / 4000, law, atol=4 * 0.5 / np.sqrt(4000))
        draws[name] = jax.tree.map(lambda leaf: leaf[0], draw)
        error = np.abs(law.mean(axis=0) - 1 / 3).sum()
        np.testing.assert_allclose(draws[name].marginal_error, error, rtol=1e-6, atol=1e-12)
        entropy = -np.mean(np.sum(law * np.log(law), axis=1)) / np.log(3)
        np.testing.assert_allclose(draws[name].entropy, entropy, rtol=1e-6)
    relative = np.mean((law_of(x0, x1, 0.3, FINE) * costs).sum(axis=1)) / costs.mean()
    np.testing.assert_allclose(draws["fine"].relative_cost, relative)
    assert relative < 0.99
    assert draws["fine"].marginal_error < 1e-9 < 1e-3 < draws["loose"].marginal_error
    assert draws["fine"].result == otjax.RESULTS.successful


def test_an_assignment_repeats_nobody_and_is_near_the_best():
    x0, x1 = clouds()
    assigned = minibatch(epsilon=0.01, draw=flow.Assignment()).pairs(KEY, x0, x1)
    assert sorted(assigned.i.tolist()) == sorted(assigned.j.tolist()) == list(range(24))
    costs = squared_distances(x0, x1)
    drawn, best = (
        costs[i, j].mean()
        for i, j in ((assigned.i, assigned.j), scipy.optimize.linear_sum_assignment(costs))
    )
    assert best <= drawn < 1.03 * best
    np.testing.assert_allclose(assigned.relative_cost, drawn / costs.mean())
    assert assigned.marginal_error == assigned.entropy == 0
    rows = minibatch(epsilon=0.01).pairs(KEY, x0, x1)
    assert len(set(rows.j.tolist())) < 24
    broken = minibatch(epsilon=0.01).pairs(KEY, x0.at[0, 0].set(jnp.nan), x1)
    assert broken.result == otjax.RESULTS.nonfinite_input


def test_the_batch_of_the_plan_may_be_larger_than_that_of_the_regression():
    """The field 0 shows the mean square of targets, which is the cost of the pairs."""
    x0, x1 = clouds()
    zero = lambda t, x: jnp.zeros_like(x)
    few = minibatch(num_pairs=8)
    losses = {}
    for name, coupling in (
        ("far", flow.Independent()),
        ("near", minibatch(num_pairs=20, draw=flow.Assignment())),
    ):
        losses[name], pairs = flow.velocity_loss(zero, KEY, x0, x1, coupling=coupling, has_aux=True)
        assert len(set(pairs.i.tolist())) == len(set(pairs.j.tolist())) == len(pairs.i)
        displacements = np.asarray(x1)[pairs.j] - np.asarray(x0)[pairs.i]
        np.testing.assert_allclose(losses[name], np.mean(np.sum(displacements**2, axis=1)))
    assert pairs.i.shape == (20,)
    assert losses["near"] < 0.8 * losses["far"]
    first, second = (few.pairs(jr.key(k), x0, x1).i.tolist() for k in range(2))
    assert len(set(first)) == 8 and set(first) != set(second)


def test_independent_pairs_use_everything_equally():
    x0, x1 = clouds(10, 4)
    pairs = flow.Independent().pairs(KEY, x0, x1)
    assert pairs.i.tolist() == list(range(10))
    assert set(np.bincount(pairs.j, minlength=4).tolist()) == {2, 3}
    pairs = flow.Independent().pairs(KEY, x1, x0)
    assert len(set(pairs.j.tolist())) == 4
    assert flow.Independent().pairs(jr.key(1), x1, x0).j.tolist() != pairs.j.tolist()
    assert pairs.relative_cost == pairs.entropy == 1


def test_pairs_that_are_given_are_kept():
    x0, x1 = clouds()
    pairs = flow.Paired().pairs(KEY, x0, x1)
    assert pairs.i.tolist() == pairs.j.tolist() == list(range(24))
    costs = squared_distances(x0, x1)
    np.testing.assert_allclose(pairs.relative_cost, np.trace(costs) / 24 / costs.mean())


def test_points_are_met_by_their_potential():
    """Starts draw from the rows of the plan, or take the nearest less the potential."""
    x0, x1 = (10 * x for x in clouds(200, 12))
    masses = jnp.arange(12.0) / 66  # one of them zero
    problem = otjax.EntropicProblem(otjax.PointCloud(x0, x1), None, masses, epsilon=50.0)
    solution = otjax.solve(problem, FINE)
    costs = squared_distances(x0, x1)
    law = np.asarray(solution.plan.as_matrix()) * 200
    draws = jax.vmap(lambda key: flow.Semidiscrete(solution).pairs(key, x0, x1))(
        jr.split(KEY, 2000)
    )
    counts = np.stack([np.mean(np.asarray(draws.j) == k, axis=0) for k in range(12)], axis=1)
    np.testing.assert_allclose(counts, law, atol=4 * 0.5 / np.sqrt(2000))
    assert np.all(draws.j != 0)
    soft = jax.tree.map(lambda leaf: leaf[0], draws)
    assert soft.i.tolist() == list(range(200))
    assert soft.marginal_error < 1e-8 and soft.result == otjax.RESULTS.successful
    safe = np.where(law > 0, law, 1)
    entropy = -np.mean(np.sum(law * np.log(safe), axis=1)) / np.log(12)
    np.testing.assert_allclose(soft.entropy, entropy, rtol=1e-6)
    independent = np.mean(costs @ np.asarray(masses))
    np.testing.assert_allclose(
        soft.relative_cost, np.mean(np.sum(law * costs, axis=1)) / independent, rtol=1e-6
    )
    g = np.asarray(solution.potentials[1])
    hard = flow.Semidiscrete(solution, epsilon=0.0).pairs(KEY, x0, x1)
    nearest = np.argmin(np.where(masses > 0, costs - g, np.inf), axis=1)
    np.testing.assert_array_equal(hard.j, nearest)
    assert hard.entropy == 0
    of_law = np.bincount(nearest, minlength=12) / 200
    np.testing.assert_allclose(hard.marginal_error, np.abs(of_law - masses).sum())
    # An array of potentials is uniform and hard, of the squared distance, unless told otherwise.
    plain = flow.Semidiscrete(g).pairs(KEY, x0, x1)
    np.testing.assert_array_equal(plain.j, np.argmin(costs - g, axis=1))
    euclidean = flow.Semidiscrete(g, cost=otjax.Euclidean()).pairs(KEY, x0, x1)
    np.testing.assert_array_equal(euclidean.j, np.argmin(np.sqrt(costs) - g, axis=1))
    told = flow.Semidiscrete(g, masses=masses, epsilon=50.0).pairs(KEY, x0, x1)
    np.testing.assert_allclose(told.entropy, soft.entropy)
    short = eqx.tree_at(lambda s: s.result, solution, otjax.RESULTS.max_steps_reached)
    assert flow.Semidiscrete(short).pairs(KEY, x0, x1).result == otjax.RESULTS.max_steps_reached
    broken = flow.Semidiscrete(g).pairs(KEY, x0.at[0, 0].set(jnp.nan), x1)
    assert broken.result == otjax.RESULTS.nonfinite_input


def test_points_are_met_by_the_potential_of_a_sampler():
    x0, x1 = clouds(20, 6)
    masses = jnp.arange(1.0, 7.0) / 21
    found = otjax.semidiscrete(
        lambda key: jr.normal(key, (16, 2)), x1, masses, key=KEY, tolerance=1e-9, throw=False,
        cost=otjax.Euclidean(), ascent=otjax.StochasticAscent(max_steps=5, num_tests=2),
    )  # fmt: skip
    pairs = flow.Semidiscrete(found).pairs(KEY, x0, x1)
    np.testing.assert_array_equal(pairs.j, found.assign(x0))
    shares = np.bincount(pairs.j, minlength=6) / 20
    np.testing.assert_allclose(pairs.marginal_error, np.abs(shares - masses).sum())
    assert pairs.result == found.result != otjax.RESULTS.successful
    assert flow.Semidiscrete(found, epsilon=1.0).pairs(KEY, x0, x1).entropy > 0.1


def test_many_points_are_met_without_a_matrix():
    """A block of starts at a time: the same law as at once, in less memory."""
    x0, x1 = clouds(600, 3000)
    g, labels = jr.normal(KEY, (3000,)), jnp.arange(3000) % 2
    for epsilon in (0.0, 0.3):
        coupling = flow.Semidiscrete(g, epsilon=epsilon, labels=labels)
        pair = jax.jit(lambda *args, coupling=coupling: coupling.pairs(*args))
        memory = pair.lower(KEY, jnp.tile(x0, (4, 1)), x1).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 4 * 600 * 3000 * 8 / 2
        pairs = coupling.pairs(KEY, x0, x1)
        drawn = np.asarray(labels)[pairs.j]
        assert np.bincount(drawn).tolist() == [300, 300]
        costs = squared_distances(x0, x1)
        scores = np.where(
            np.asarray(labels)[None] == drawn[:, None], np.asarray(g) - costs, -np.inf
        )
        law = np.exp((scores - scores.max(axis=1, keepdims=True)) / (epsilon or 1e-9))
        law /= law.sum(axis=1, keepdims=True)
        paid = np.mean(np.sum(law * costs, axis=1))
        np.testing.assert_allclose(pairs.relative_cost, paid / costs.mean(), rtol=1e-6)
        error = np.abs(law.mean(axis=0) - 1 / 3000).sum()
        np.testing.assert_allclose(pairs.marginal_error, error, rtol=1e-6)
        surprise = -np.sum(law * np.log(np.where(law > 0, law, 1)), axis=1)
        np.testing.assert_allclose(pairs.entropy, surprise.mean() / np.log(3000), atol=1e-9)
        if epsilon == 0:
            np.testing.assert_array_equal(pairs.j, scores.argmax(axis=1))


def test_a_large_sample_serves_fresh_starts_better_than_a_batch():
    """And conditions ride along with the points."""
    rng = np.random.default_rng(1)
    x1 = jnp.asarray(rng.normal(size=(12, 2)))
    sample, fresh = jnp.asarray(rng.normal(size=(200, 2))), jnp.asarray(rng.normal(size=(24, 2)))
    problem = otjax.EntropicProblem(otjax.PointCloud(sample, x1), epsilon=0.05)
    coupling = flow.Semidiscrete(otjax.solve(problem, solver(tolerance=1e-4)), epsilon=0.0)
    loss = lambda coupling: flow.velocity_loss(
        lambda t, x, end: jnp.zeros_like(x) + end - x1[0], KEY, fresh, x1, x1,
        coupling=coupling, has_aux=True,
    )  # fmt: skip
    (value, pairs), (_, independent) = loss(coupling), loss(flow.Independent())
    assert pairs.relative_cost < 0.6 < independent.relative_cost
    ends = np.asarray(x1)[pairs.j]
    residual = ends - np.asarray(x1)[0] - (ends - np.asarray(fresh)[pairs.i])
    np.testing.assert_allclose(value, np.mean(np.sum(residual**2, axis=1)))


def test_points_of_a_label_are_met_by_starts_that_do_not_depend_on_it():
    rng = np.random.default_rng(2)
    labels = jnp.arange(12) % 3
    x1 = jnp.asarray(rng.normal(size=(12, 2))) + 3.0 * labels[:, None].astype(float)
    x0 = jnp.asarray(rng.normal(size=(48, 2)))
    costs = squared_distances(x0, x1)
    coupling = flow.Semidiscrete(jnp.zeros(12), labels=labels)
    pairs = coupling.pairs(KEY, x0, x1)
    drawn = np.asarray(labels)[pairs.j]
    np.testing.assert_array_equal(np.bincount(drawn), [16, 16, 16])
    allowed = np.where(np.asarray(labels)[None] == drawn[:, None], costs, np.inf)
    np.testing.assert_array_equal(pairs.j, allowed.argmin(axis=1))
    np.testing.assert_allclose(pairs.relative_cost, allowed.min(axis=1).mean() / costs.mean())
    # Without labels the far ones are met by nobody near.
    assert (
        np.bincount(np.asarray(labels)[flow.Semidiscrete(jnp.zeros(12)).pairs(KEY, x0, x1).j])[0]
        > 24
    )
    # Labels are drawn by their masses, and the starts of each have the mean of all.
    masses = jnp.arange(1.0, 13.0)
    weighted = flow.Semidiscrete(jnp.zeros(12), masses=masses, labels=labels, epsilon=1.0)
    draw = jax.vmap(lambda key: weighted.pairs(key, x0, x1).j)(jr.split(KEY, 500))
    drawn = np.asarray(labels)[draw]
    for label in range(3):
        share = float(jnp.sum(masses[labels == label]) / jnp.sum(masses))
        each = np.sum(drawn == label, axis=1)
        assert each.min() >= np.floor(48 * share) and each.max() <= np.ceil(48 * share)
        starts = np.einsum("kn,nd->d", drawn == label, x0) / np.sum(drawn == label)
        np.testing.assert_allclose(starts, np.mean(x0, axis=0), atol=0.05)


def test_labels_are_kept_apart_as_strictly_as_asked():
    x0, x1 = clouds()
    labels = jnp.arange(24) % 2
    x1 = x1.at[1::2].add(3.0)  # so that distances alone would choose otherwise

    def mixed(coupling):
        pairs = coupling.pairs(KEY, x0, x1, labels)
        return np.mean(labels[pairs.i] != labels[pairs.j])

    conditional = lambda weight: flow.Conditional(weight, minibatch=minibatch(epsilon=0.1))
    assert mixed(conditional(jnp.inf)) == 0 < mixed(conditional(3.0)) < mixed(minibatch())
    # Conditions that are numbers: the plan is that of samples with coordinates joined to them.
    numbers = jnp.asarray(np.random.default_rng(1).normal(size=(24, 1)))
    joined = [jnp.concatenate([x, 2.0 * numbers], axis=1) for x in (x0, x1)]
    scales = [spread_of(*pair) for pair in ([x0, x1], joined)]
    pairs = conditional(4.0).pairs(KEY, x0, x1, numbers)
    same = minibatch(epsilon=0.1 * scales[0] / scales[1]).pairs(KEY, *joined)
    np.testing.assert_array_equal(pairs.j, same.j)
    np.testing.assert_allclose(pairs.entropy, same.entropy, rtol=1e-6)


# Interpolants


@pytest.mark.parametrize(
    "interpolant", [flow.Linear(), flow.Linear(0.3), flow.BrownianBridge(0.7), flow.Trigonometric()]
)
def test_a_velocity_is_the_derivative_of_its_position(interpolant):
    x0, x1, noise = (jr.normal(jr.key(k), (3,)) for k in range(3))
    for t in (0.2, 0.5, 0.9):
        position = lambda t: interpolant.position(t, x0, x1, noise)
        _, derivative = jax.jvp(position, (jnp.asarray(t),), (jnp.ones(()),))
        np.testing.assert_allclose(
            interpolant.velocity(jnp.asarray(t), x0, x1, noise), derivative, rtol=1e-12
        )
    nothing = jnp.zeros(3)
    for t, end in ((0.0, x0), (1.0, x1)):
        position = interpolant.position(jnp.asarray(t), x0, x1, nothing)
        np.testing.assert_allclose(position, end, atol=5e-3)


def test_noise_is_as_wide_as_asked():
    zero, one, t = jnp.zeros(()), jnp.ones(()), jnp.asarray(0.2)
    assert flow.Linear(0.3).position(t, zero, zero, one) == 0.3
    np.testing.assert_allclose(flow.BrownianBridge(2.0).position(t, zero, zero, one), 2 * 0.4)
    # Near an end the velocity of a bridge is that at the margin.
    bridge = flow.BrownianBridge(1.0, margin=0.1)
    at = lambda t: bridge.velocity(jnp.asarray(t), zero, zero, one)
    assert at(0.0) == at(0.1) != at(0.2)
    assert at(1.0) == at(0.9)


# The loss


def gaussian_field(parameters, t, x):
    """The best field for independent pairs of N(0, I) and N(mean, s^2 I)."""
    mean, s = parameters
    slope = (s**2 * t - (1 - t)) / ((1 - t) ** 2 + s**2 * t**2)
    return mean + slope * (x - t * mean)


def test_the_best_field_is_a_minimum_of_known_height():
    n, mean, s = 40_000, jnp.array([1.0, -2.0]), jnp.asarray(0.5)
    x0, z1 = jr.normal(KEY, (n, 2)), jr.normal(jr.key(1), (n, 2))
    x1 = mean[None, :] + s * z1
    loss = lambda parameters: flow.velocity_loss(
        jax.tree_util.Partial(gaussian_field, parameters), jr.key(2), x0, x1
    )
    value, gradient = jax.value_and_grad(loss)((mean, s))
    # E Var(x1 - x0 | x_t) = 2 s^2 / ((1 - t)^2 + s^2 t^2) in the plane, whose integral is pi s.
    np.testing.assert_allclose(value, np.pi * s, rtol=0.02)
    assert np.abs(gradient[0]).max() < 0.05 and np.abs(gradient[1]) < 0.05
    away = loss((mean + jnp.array([0.5, 0.0]), s))
    np.testing.assert_allclose(away - value, np.mean(np.square(_shift_of_field(s))), rtol=0.1)


def _shift_of_field(s):
    """How much the field moves, over time, when the mean moves by a half."""
    t = np.linspace(0, 1, 1001)
    return 0.5 * (1 - t * (s**2 * t - (1 - t)) / ((1 - t) ** 2 + s**2 * t**2))


def test_an_interpolant_chooses_the_targets():
    x0, x1 = clouds()
    seen = lambda t, x: jnp.full_like(x, t)
    losses = [
        flow.velocity_loss(seen, KEY, x0, x1, coupling=flow.Paired(), interpolant=interpolant)
        for interpolant in (flow.Linear(), flow.Trigonometric(), flow.BrownianBridge(0.5))
    ]
    assert len({float(loss) for loss in losses}) == 3


def test_a_condition_travels_with_its_sample():
    x0, x1 = clouds()
    labels = jnp.arange(24) % 12
    coupling = flow.Conditional(0.5, minibatch=minibatch(draw=flow.Assignment()))
    # A label is that of the end of a path, whatever its start: it tells the end up to a pair.
    centre = 0.5 * (x1[:12] + x1[12:])
    x1 = jnp.concatenate([centre, centre])
    ends = lambda t, x, label: (centre[label] - x) / (1 - t)
    loss, pairs = flow.velocity_loss(ends, KEY, x0, x1, labels, coupling=coupling, has_aux=True)
    assert np.any(labels[pairs.i] != labels[pairs.j])
    np.testing.assert_allclose(loss, 0, atol=1e-20)


def test_the_loss_keeps_its_dtype_is_traced_once_and_says_what_is_invalid():
    x0, x1 = clouds(dtype=jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(slope, x0, key, sigma, epsilon):
        loss = lambda slope, x0: flow.velocity_loss(
            lambda t, x: slope * x, key, x0, x1,
            coupling=flow.Minibatch(solver(), epsilon=epsilon), interpolant=flow.Linear(sigma),
        )  # fmt: skip
        return jax.value_and_grad(loss, argnums=(0, 1))(slope, x0)

    slope = jnp.float32(0.5)
    results = [step(slope, x0 + k, jr.key(k), 0.1 * k, 0.1 + k) for k in range(3)]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(results))
    assert len({float(value) for value, _ in results}) == 3
    assert np.all(np.isfinite([value for value, _ in results]))
    value, gradients = step(slope, x0.at[3, 0].set(jnp.inf), KEY, 0.1, 0.1)
    assert np.isnan(value)
    assert all(np.all(gradient == 0) for gradient in gradients)
    half = x0.astype(jnp.bfloat16)
    assert flow.velocity_loss(lambda t, x: x, KEY, half, half).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: flow.velocity_loss(lambda t, x: x, KEY, x, x[:, :1]), "x1"),
        (lambda x: flow.velocity_loss(lambda t, x: x[0], KEY, x, x), "velocity"),
        (lambda x: flow.velocity_loss(None, KEY, x, x), "velocity"),
        (lambda x: flow.velocity_loss(lambda t, x: x, KEY, x > 0, x), "x0"),
        (lambda x: flow.velocity_loss(lambda t, x: x, KEY, x, x, jnp.ones(3)), "condition"),
        (
            lambda x: flow.velocity_loss(
                lambda t, x: x, KEY, x, x, coupling=flow.Conditional(minibatch=minibatch())
            ),
            "condition",
        ),
        (
            lambda x: flow.velocity_loss(lambda t, x: x, KEY, x, x, coupling=flow.Linear()),
            "coupling",
        ),
        (
            lambda x: flow.velocity_loss(lambda t, x: x, KEY, x, x, interpolant=flow.Paired()),
            "interpolant",
        ),
        (lambda x: flow.Paired().pairs(KEY, x, x[:3]), "x1"),
        (lambda x: minibatch(draw=flow.Assignment()).pairs(KEY, x, x[:3]), "x1"),
        (lambda x: minibatch(num_pairs=25).pairs(KEY, x, x), "num_pairs"),
        (lambda x: minibatch(num_pairs=0), "num_pairs"),
        (lambda x: minibatch(epsilon=0.0), "epsilon"),
        (lambda x: minibatch(draw="rows"), "draw"),
        (lambda x: flow.Minibatch(1e-3), "solver"),
        (lambda x: flow.Conditional(-1.0), "weight"),
        (lambda x: flow.Semidiscrete(x), "potential"),
        (lambda x: flow.Semidiscrete(x[:, 0], masses=x[:3, 0]), "masses"),
        (lambda x: flow.Semidiscrete(x[:, 0], epsilon=-1.0), "epsilon"),
        (lambda x: flow.Semidiscrete(x[:, 0], labels=jnp.arange(3)), "labels"),
        (lambda x: flow.Semidiscrete(x[:, 0], labels=x[:, 0]), "labels"),
        (lambda x: flow.Semidiscrete(x[:, 0]).pairs(KEY, x, x[:3]), "x1"),
        (lambda x: flow.Conditional(minibatch=flow.Paired()), "minibatch"),
        (lambda x: flow.BrownianBridge(0.0), "sigma"),
        (lambda x: flow.BrownianBridge(1.0, margin=0.5), "margin"),
        (lambda x: flow.Linear(-0.1), "sigma"),
    ],
)  # fmt: skip
def test_wrong_structure_is_named(call, name):
    x0, _ = clouds()
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=name):
        call(x0)
