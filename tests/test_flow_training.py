"""The trainer trains velocities, drifts of processes and one-step generators as it trains games."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

import otjax
from otjax import flow, gan


KEY = jr.key(0)
MEAN = jnp.array([1.0, -2.0])
SOLVER = otjax.Sinkhorn(annealing=otjax.NoAnnealing(), acceleration=otjax.Overrelaxation())


class Affine(eqx.Module):
    """A field or generator with few parameters."""

    matrix: jax.Array
    shift: jax.Array

    def __init__(self):
        self.matrix, self.shift = jnp.eye(2), jnp.zeros(2)

    def __call__(self, *arguments):
        return self.matrix @ arguments[-1] + self.shift


class Labelled(eqx.Module):
    """A field that reads its condition alone."""

    shifts: jax.Array

    def __call__(self, t, x, label):
        return self.shifts[label]


def trainer(objective, **options):
    options = {"latent": 2, "batch_size": 32, "n_critic": 0} | options
    return gan.Trainer(objective, generator_optimiser=optax.sgd(0.1), **options)


def trained(trainer, model, data, steps):
    state, history = trainer.init(model, key=KEY), []
    for _ in range(steps):
        state, metrics = trainer.step(state, data)
        history.append(metrics)
    assert all(metrics["finite"] for metrics in history)
    return state, history


def gradient_of(loss, model):
    """What one step of plain descent at a rate of 0.1 has added, by the loss itself."""
    return jax.tree.map(lambda g: -0.1 * g, jax.grad(loss)(model))


def test_a_velocity_is_trained():
    data = MEAN[None, :] + 0.5 * jr.normal(KEY, (64, 2))
    coupling = flow.Minibatch(SOLVER, epsilon=0.1)
    objective = gan.FlowMatching(coupling, interpolant=flow.Linear(0.1))
    state, history = trained(trainer(objective), Affine(), data, 20)
    assert history[-1]["generator_loss"] < 0.2 * history[0]["generator_loss"]
    np.testing.assert_allclose(state.generator.shift, MEAN, atol=0.5)
    assert 0 < history[0]["relative_cost"] < 1 and history[0]["unconverged"] == 0
    assert 0 < history[0]["entropy"] < 1 and history[0]["marginal_error"] >= 0
    # Each of its parts is used: a start of the latents, the coupling, the interpolant.
    losses = {
        float(trained(trainer(other), Affine(), data, 1)[1][0]["generator_loss"])
        for other in (
            objective,
            gan.FlowMatching(coupling),
            gan.FlowMatching(),
            gan.FlowMatching(interpolant=flow.Trigonometric()),
        )
    }
    assert len(losses) == 4


def test_pairs_and_conditions_are_trained_on():
    x0, labels = jr.normal(KEY, (24, 2)), jnp.arange(24) % 3
    shifts = jnp.array([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0]])
    data = gan.Ends(x0 + shifts[labels], x0, labels)
    model = Labelled(jnp.zeros((3, 2)))
    # A batch is drawn with all that belongs to it: the target of each label is exact.
    state, _ = trained(trainer(gan.FlowMatching(flow.Paired()), batch_size=20), model, data, 60)
    np.testing.assert_allclose(state.generator.shifts, shifts, atol=0.05)
    drawn = lambda key: data
    state, _ = trained(trainer(gan.FlowMatching(flow.Paired()), batch_size=3), model, drawn, 2)
    np.testing.assert_allclose(state.generator.shifts, (1 - (1 - 0.2 / 3) ** 2) * shifts)


def test_all_points_are_paired_with_few_starts():
    points = MEAN[None, :] + jr.normal(KEY, (40, 2))
    coupling = flow.Semidiscrete(jnp.zeros(40))
    objective = gan.FlowMatching(coupling, num_starts=8)
    options = {"latent": lambda key: jr.normal(key, (2,)), "batch_size": 40}
    _, (metrics,) = trained(trainer(objective, **options), Affine(), points, 1)
    assert metrics["relative_cost"] < 0.5  # of the nearest
    assert metrics["marginal_error"] >= 2 * (1 - 8 / 40)  # by eight starts


def test_a_drift_of_a_process_is_trained():
    x0 = jr.normal(KEY, (16, 2))
    data, bridge = gan.Ends(x0 + MEAN[None, :], x0), flow.BrownianBridge(0.3, margin=0.05)
    objective = gan.BridgeMatching(bridge, flow.Paired())
    state, (metrics,) = trained(trainer(objective, batch_size=16), Affine(), data, 1)
    assert metrics["relative_cost"] > 0
    # The key of the loss is one of its own: the trainer's first, split as the objective does.
    _, _, key = jr.split(jr.fold_in(KEY, 0), 3)
    loss = lambda model: flow.bridge_loss(
        model, jr.split(key)[1], x0, data.x1, bridge=bridge, coupling=flow.Paired()
    )
    np.testing.assert_allclose(state.generator.shift, gradient_of(loss, Affine()).shift, rtol=1e-6)


def test_a_generator_follows_a_drift():
    data = MEAN[None, :] + 0.5 * jr.normal(KEY, (32, 2))
    objective = gan.Drifting(flow.SinkhornDrift(0.5, solver=otjax.DualNewton(tolerance=1e-6)))
    state, history = trained(trainer(objective), Affine(), data, 12)
    assert history[-1]["w2"] < 0.3 * history[0]["w2"]
    assert history[-1]["size"] < 0.3 * history[0]["size"]
    assert all(metrics["unconverged"] == 0 for metrics in history)
    np.testing.assert_allclose(
        [metrics["generator_loss"] for metrics in history],
        [metrics["size"] ** 2 for metrics in history],
        rtol=1e-6,
    )
    np.testing.assert_allclose(state.generator.shift, np.mean(data, axis=0), atol=0.3)


@pytest.mark.slow
def test_a_drift_goes_on_from_the_step_before():
    data = MEAN[None, :] + 0.5 * jr.normal(KEY, (32, 2))
    solver = otjax.Sinkhorn(
        tolerance=1e-6, annealing=otjax.NoAnnealing(), acceleration=otjax.Overrelaxation()
    )
    objective = gan.Drifting(flow.SinkhornDrift(0.5, solver=solver))
    # Of the same latents and a model that has moved a little: fewer iterations, the same field.
    fixed = jr.normal(jr.key(1), (32, 2))
    model, latents = Affine(), lambda key: fixed
    before = objective.start(model, data, latents, key=KEY)
    near = eqx.tree_at(lambda m: m.shift, model, jnp.full(2, 1e-3))
    alone = objective.start(near, data, latents, key=KEY)
    (_, metrics), after = objective.loss_from(before, near, None, data, latents, key=KEY)
    count = lambda found: np.array([np.sum(s.stats.num_steps) for s in found.solutions])
    assert np.all(count(after) < 0.8 * count(alone)), (count(after), count(alone))
    np.testing.assert_allclose(after.field, alone.field, atol=1e-5)
    assert metrics["unconverged"] == 0
    # A trainer hands it on if it has seen the data, and trains the same.
    one = trainer(objective)
    cold, warm = one.init(Affine(), key=KEY), one.init(Affine(), key=KEY, data=data)
    assert cold.known is None and warm.known.size > 0
    for _ in range(2):
        known = warm.known
        (cold, first), (warm, second) = one.step(cold, data), one.step(warm, data)
        np.testing.assert_allclose(warm.generator.shift, cold.generator.shift, atol=1e-5)
        np.testing.assert_allclose(second["generator_loss"], first["generator_loss"], rtol=1e-4)
        assert warm.known.w2 == second["w2"] != known.w2
    # What is no number is not handed on.
    spoilt, metrics = one.step(warm, data.at[0, 0].set(jnp.nan))
    assert not metrics["finite"]
    assert eqx.tree_equal(spoilt.known, warm.known)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("coupling", lambda: gan.FlowMatching(flow.Linear())),
        ("interpolant", lambda: gan.FlowMatching(interpolant=flow.Paired())),
        ("num_starts", lambda: gan.FlowMatching(num_starts=0)),
        ("bridge", lambda: gan.BridgeMatching(flow.Linear())),
        ("coupling", lambda: gan.BridgeMatching(flow.BrownianBridge(1.0), None)),
        ("drift", lambda: gan.Drifting(None)),
        (
            "data.x0",
            lambda: trained(
                trainer(gan.FlowMatching()),
                Affine(),
                gan.Ends(jnp.ones((40, 2)), jnp.ones((3, 2))),
                1,
            ),
        ),
        (
            "data.condition",
            lambda: trained(
                trainer(gan.FlowMatching()),
                Affine(),
                gan.Ends(jnp.ones((40, 2)), condition=jnp.ones(3)),
                1,
            ),
        ),
        (
            "data",
            lambda: trained(trainer(gan.FlowMatching()), Affine(), gan.Ends(jnp.ones((4, 2))), 1),
        ),
    ],
)  # fmt: skip
def test_wrong_structure_is_named(name, make):
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"[`']{name}[`']"):
        make()
