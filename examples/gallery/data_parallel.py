"""Data-parallel training: each device has its own batch, and gradients are averaged.

    python examples/gallery/data_parallel.py    # draws data_parallel.png

Here the devices are four parts of a CPU. On a machine with several accelerators leave out the line
that makes them; nothing else changes. No device waits for another within a solve.
"""

import os


os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"  # before JAX is imported
os.environ["JAX_PLATFORMS"] = "cpu"

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import optax  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import otjax  # noqa: E402


mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
steps = 500
optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
model, static = eqx.partition(eqx.nn.MLP(2, 2, 64, 2, key=jr.key(0)), eqx.is_array)


def wave(key, number):
    key_place, key_noise = jr.split(key)
    place = jr.uniform(key_place, (number, 1), minval=-1.5, maxval=1.5)
    points = jnp.hstack([place, 0.7 * jnp.sin(2 * place)])
    return points + 0.04 * jr.normal(key_noise, (number, 2))


def loss_fn(model, latents, data):
    samples = jax.vmap(eqx.combine(model, static))(latents)
    return otjax.sinkhorn_divergence(samples, data, epsilon=0.01, tolerance=1e-2)


def step(model, state, latents, data):
    """On each device, with its quarter of the batch."""
    loss, gradient = jax.value_and_grad(loss_fn)(model, latents, data)
    # With respect to what all devices share, a gradient arrives summed over them.
    gradient = jax.tree.map(lambda total: total / jax.device_count(), gradient)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(model, updates), state, jax.lax.pmean(loss, "data")


specs = (P(), P(), P("data"), P("data"))
step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P()))
state = optimiser.init(model)
losses = []
for number in range(steps):
    key_latents, key_data = jr.split(jr.key(number))
    batch = jr.normal(key_latents, (1024, 2)), wave(key_data, 1024)
    model, state, loss = step(model, state, *batch)
    losses.append(float(loss))
print(
    f"{jax.device_count()} devices: divergence {losses[0]:.3f} at first, {losses[-1]:.4f} at last"
)

figure = Figure(figsize=(7.5, 3.4), layout="tight")
left, right = figure.subplots(1, 2)
left.semilogy(losses)
left.set(xlabel="step", title="divergence, mean over the devices")
samples = jax.vmap(eqx.combine(model, static))(jr.normal(jr.key(1000), (1500, 2)))
right.scatter(*wave(jr.key(1001), 1500).T, s=2, color="0.7")
right.scatter(*samples.T, s=2)
right.set(title="data, and samples in colour", aspect="equal")
figure.savefig("data_parallel.png", dpi=80)
