"""A drift trains a generator of one step: samples are told where to go next, and follow.

    python examples/gallery/drift.py    # draws drift.png

The drift is the steepest descent of the Sinkhorn divergence in closed form; no derivative of a
solve is taken. (After Deng et al. 2026, arXiv:2602.04770, whose drift is a kernel's.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from matplotlib.figure import Figure

import otjax
from otjax import flow


def data(key, number=128):
    """A crescent."""
    key_u, key_noise = jr.split(key)
    u = jr.uniform(key_u, (number, 1), minval=-1.5, maxval=1.5)
    return jnp.hstack([u, u**2 - 1]) + 0.1 * jr.normal(key_noise, (number, 2))


drift = flow.SinkhornDrift(0.05, solver=otjax.Sinkhorn(tolerance=1e-2))
optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, 300))


@eqx.filter_jit
def step(model, state, key):
    key_data, key_latents = jr.split(key)
    latents, real = jr.normal(key_latents, (128, 2)), data(key_data)
    loss_fn = lambda model: flow.drift_loss(model, real, drift, latents=latents, has_aux=True)
    (_, found), gradient = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model)
    updates, state = optimiser.update(gradient, state)
    return eqx.apply_updates(model, updates), state, found


model = eqx.nn.MLP(2, 2, 128, 3, activation=jax.nn.silu, key=jr.key(0))
state = optimiser.init(eqx.filter(model, eqx.is_array))
latents, real = jr.normal(jr.key(9999), (400, 2)), data(jr.key(9998), 400)
figure = Figure(figsize=(11, 3), layout="tight")
axes = figure.subplots(1, 4)
sizes, panels, first = [], iter(axes), jax.vmap(model)(latents)
for number in range(301):
    if number in (0, 30, 300):
        ax, samples = next(panels), jax.vmap(model)(latents)
        moves = drift(samples, real)
        ax.scatter(*real.T, s=2, color="0.7")
        ax.scatter(*samples.T, s=2)
        ax.quiver(
            *samples[::4].T, *moves[::4].T, angles="xy", scale_units="xy", scale=1, width=0.004
        )
        ax.set(title=f"step {number}", aspect="equal", xlim=(-2.1, 2.1), ylim=(-2.1, 2.1))
    model, state, found = step(model, state, jr.key(number))
    sizes.append(float(found.size))
axes[3].semilogy(sizes)
axes[3].set(xlabel="step", title="size of the drift")
before, after = (float(otjax.sinkhorn_divergence(end, real)) for end in (first, samples))
print(f"divergence: {before:.3f} at first, {after:.4f} at last")
figure.savefig("drift.png", dpi=80)
