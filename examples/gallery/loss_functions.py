"""The same loss with pure functions and a dictionary of parameters, as Haiku has them.

python examples/gallery/loss_functions.py    # draws loss_functions.png
"""

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


def init(key, sizes=(2, 64, 64, 2)):
    keys = jr.split(key, len(sizes) - 1)
    layers = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [{"w": jr.normal(k, (n, m)) / n**0.5, "b": jnp.zeros(m)} for k, n, m in layers]


def apply(params, z):
    for layer in params[:-1]:
        z = jax.nn.relu(z @ layer["w"] + layer["b"])
    return z @ params[-1]["w"] + params[-1]["b"]


def loss_fn(params, noise, real):
    return otjax.sinkhorn_divergence(apply(params, noise), real, epsilon=0.01, tolerance=1e-2)


@jax.jit
def step(params, state, key):
    key_noise, key_real = jr.split(key)
    noise, real = jr.normal(key_noise, (128, 2)), spiral(key_real, 128)
    loss, gradient = jax.value_and_grad(loss_fn)(params, noise, real)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss


optimiser = optax.adam(3e-3)
params = init(jr.key(0))
state = optimiser.init(params)
losses = []
for number in range(200):
    params, state, loss = step(params, state, jr.key(number))
    losses.append(float(loss))
print(f"divergence: {losses[0]:.3f} at first, {losses[-1]:.4f} at last")

ax = Figure(figsize=(4, 4)).subplots()
ax.scatter(*spiral(jr.key(2), 1000).T, s=3, color="0.7")
ax.scatter(*apply(params, jr.normal(jr.key(1), (1000, 2))).T, s=3)
ax.set(title="data (grey), samples (blue)", aspect="equal")
ax.figure.savefig("loss_functions.png", dpi=80)
