"""The Sinkhorn divergence as the loss of a generator, with Equinox and optax.

python examples/gallery/loss_equinox.py    # draws loss_equinox.png
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from matplotlib.figure import Figure

import otjax


def spiral(key, number):
    """The data: points of a spiral."""
    t = 1 + 2 * jnp.pi * jr.uniform(key, (number, 1))
    return t * jnp.concatenate([jnp.cos(1.5 * t), jnp.sin(1.5 * t)], axis=1) / 6


def loss_fn(network, noise, real):
    return otjax.sinkhorn_divergence(jax.vmap(network)(noise), real, epsilon=0.01, tolerance=1e-2)


@eqx.filter_jit
def step(network, state, key):
    key_noise, key_real = jr.split(key)
    noise, real = jr.normal(key_noise, (128, 2)), spiral(key_real, 128)
    loss, gradient = eqx.filter_value_and_grad(loss_fn)(network, noise, real)
    updates, state = optimiser.update(gradient, state)
    return eqx.apply_updates(network, updates), state, loss


optimiser = optax.adam(3e-3)
network = eqx.nn.MLP(2, 2, width_size=64, depth=2, key=jr.key(0))
state = optimiser.init(eqx.filter(network, eqx.is_array))
losses = []
for number in range(200):
    network, state, loss = step(network, state, jr.key(number))
    losses.append(float(loss))
print(f"divergence: {losses[0]:.3f} at first, {losses[-1]:.4f} at last")

samples = jax.vmap(network)(jr.normal(jr.key(1), (1000, 2)))
ax = Figure(figsize=(4, 4)).subplots()
ax.scatter(*spiral(jr.key(2), 1000).T, s=3, color="0.7")
ax.scatter(*samples.T, s=3)
ax.set(title="data (grey), samples (blue)", aspect="equal")
ax.figure.savefig("loss_equinox.png", dpi=80)
