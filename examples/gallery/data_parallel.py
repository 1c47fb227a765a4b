"""Training on several devices: each has its own batch, and gradients are averaged.

    python examples/gallery/data_parallel.py    # draws data_parallel.png

On a machine with one CPU JAX is told to see four; with accelerators, leave that line out.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import PartitionSpec
from matplotlib.figure import Figure

import otjax


jax.config.update("jax_num_cpu_devices", 4)
mesh = jax.make_mesh((jax.device_count(),), ("batch",))
replicated, split = PartitionSpec(), PartitionSpec("batch")


def sample(params, noise):
    return jnp.tanh(noise @ params["in"] + params["bias"]) @ params["out"]


def loss_fn(params, noise, real):
    return otjax.sinkhorn_divergence(sample(params, noise), real, epsilon=0.05, tolerance=1e-2)


def of_one_device(params, noise, real):
    """The loss and gradient of this device's share; then their means over all devices."""
    loss, gradient = jax.value_and_grad(loss_fn)(params, noise, real)
    return jax.lax.pmean(loss, "batch"), jax.lax.pmean(gradient, "batch")


@jax.jit
def step(params, state, key):
    key_noise, key_angle = jr.split(key)
    noise = jr.normal(key_noise, (64 * mesh.size, 2))
    angle = 2 * jnp.pi * jr.uniform(key_angle, (64 * mesh.size,))
    real = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    loss, gradient = jax.shard_map(
        of_one_device,
        mesh=mesh,
        in_specs=(replicated, split, split),
        out_specs=(replicated, replicated),
        check_vma=False,
    )(params, noise, real)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss


key_in, key_bias, key_out = jr.split(jr.key(0), 3)
params = {
    "in": jr.normal(key_in, (2, 64)),
    "bias": jr.normal(key_bias, (64,)),
    "out": 0.1 * jr.normal(key_out, (64, 2)),
}
optimiser = optax.adam(1e-2)
state = optimiser.init(params)
losses = []
for number in range(200):
    params, state, loss = step(params, state, jr.key(number))
    losses.append(float(loss))
print(f"{mesh.size} devices; divergence: {losses[0]:.3f} at first, {losses[-1]:.4f} at last")

left, right = Figure(figsize=(7, 3.2), layout="tight").subplots(1, 2)
left.semilogy(losses)
left.set(xlabel="step", title=f"divergence, mean over {mesh.size} devices")
right.scatter(*sample(params, jr.normal(jr.key(1), (1000, 2))).T, s=3)
right.set(title="samples", aspect="equal")
left.figure.savefig("data_parallel.png", dpi=80)
