"""The same loss with Flax NNX, which is not among otjax's dependencies: `pip install flax`.

python examples/gallery/loss_flax_nnx.py    # draws loss_flax_nnx.png
"""

import jax.numpy as jnp
import jax.random as jr
import optax
from flax import nnx
from matplotlib.figure import Figure

import otjax


def spiral(key, number):
    """The data: points of a spiral."""
    t = 1 + 2 * jnp.pi * jr.uniform(key, (number, 1))
    return t * jnp.concatenate([jnp.cos(1.5 * t), jnp.sin(1.5 * t)], axis=1) / 6


def loss_fn(network, noise, real):
    return otjax.sinkhorn_divergence(network(noise), real, epsilon=0.01, tolerance=1e-2)


@nnx.jit
def step(network, optimiser, key):
    key_noise, key_real = jr.split(key)
    noise, real = jr.normal(key_noise, (128, 2)), spiral(key_real, 128)
    loss, gradient = nnx.value_and_grad(loss_fn)(network, noise, real)
    optimiser.update(network, gradient)
    return loss


rngs = nnx.Rngs(0)
network = nnx.Sequential(
    nnx.Linear(2, 64, rngs=rngs),
    nnx.relu,
    nnx.Linear(64, 64, rngs=rngs),
    nnx.relu,
    nnx.Linear(64, 2, rngs=rngs),
)
optimiser = nnx.Optimizer(network, optax.adam(3e-3), wrt=nnx.Param)
losses = [float(step(network, optimiser, jr.key(number))) for number in range(200)]
print(f"divergence: {losses[0]:.3f} at first, {losses[-1]:.4f} at last")

ax = Figure(figsize=(4, 4)).subplots()
ax.scatter(*spiral(jr.key(2), 1000).T, s=3, color="0.7")
ax.scatter(*network(jr.normal(jr.key(1), (1000, 2))).T, s=3)
ax.set(title="data (grey), samples (blue)", aspect="equal")
ax.figure.savefig("loss_flax_nnx.png", dpi=80)
