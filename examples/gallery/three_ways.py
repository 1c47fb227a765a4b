"""The same loss with pure functions, with Equinox and, where it is installed, with Flax NNX.

    python examples/gallery/three_ways.py    # draws three_ways.png

The loss sees arrays only: any library of networks will do, and each loop is the same ten lines.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from matplotlib.figure import Figure

import otjax


u = jr.uniform(jr.key(0), (128,), minval=-1.5, maxval=1.5)
data = jnp.stack([u, u**2 - 1], axis=1) + 0.08 * jr.normal(jr.key(1), (128, 2))  # a crescent
loss_fn = lambda samples: otjax.sinkhorn_divergence(samples, data, epsilon=0.05, tolerance=1e-2)
noises = [jr.normal(jr.key(number), (128, 2)) for number in range(1, 151)]
optimiser = optax.adam(1e-2)


def train_pure():
    """Parameters are a tree and networks are functions of them, as in Haiku."""

    def network(params, z):
        for weight, bias in params[:-1]:
            z = jnp.tanh(z @ weight + bias)
        return z @ params[-1][0] + params[-1][1]

    @jax.jit
    def step(params, state, z):
        loss, grads = jax.value_and_grad(lambda p: loss_fn(network(p, z)))(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    sizes = [(2, 64), (64, 64), (64, 2)]
    params = [(jr.normal(jr.key(7), size) / size[0] ** 0.5, jnp.zeros(size[1])) for size in sizes]
    state = optimiser.init(params)
    for z in noises:
        params, state, loss = step(params, state, z)
    return network(params, noises[0]), loss


def train_equinox():
    @eqx.filter_jit
    def step(model, state, z):
        loss, grads = eqx.filter_value_and_grad(lambda m: loss_fn(jax.vmap(m)(z)))(model)
        updates, state = optimiser.update(grads, state)
        return eqx.apply_updates(model, updates), state, loss

    model = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jr.key(7))
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    for z in noises:
        model, state, loss = step(model, state, z)
    return jax.vmap(model)(noises[0]), loss


def train_nnx():
    from flax import nnx  # pyright: ignore[reportMissingImports]

    @nnx.jit
    def step(model, state, z):
        loss, grads = nnx.value_and_grad(lambda m: loss_fn(m(z)))(model)
        state.update(model, grads)  # in place
        return loss

    rngs, loss = nnx.Rngs(7), None
    hidden = [nnx.Linear(2, 64, rngs=rngs), jnp.tanh, nnx.Linear(64, 64, rngs=rngs), jnp.tanh]
    model = nnx.Sequential(*hidden, nnx.Linear(64, 2, rngs=rngs))
    state = nnx.Optimizer(model, optimiser, wrt=nnx.Param)
    for z in noises:
        loss = step(model, state, z)
    return model(noises[0]), loss


figure = Figure(figsize=(9, 3.2), layout="tight")
ways = {"pure functions": train_pure, "Equinox": train_equinox, "Flax NNX": train_nnx}
for ax, (name, train) in zip(figure.subplots(1, 3), ways.items(), strict=True):
    ax.scatter(*data.T, s=5, color="0.7")
    ax.set(title=name, aspect="equal", xlim=(-2, 2), ylim=(-1.5, 1.8))
    try:
        samples, loss = train()
        print(f"{name}: divergence {loss_fn(0 * data):.2f} of one point, {loss:.4f} after training")
        ax.scatter(*samples.T, s=5)
    except ModuleNotFoundError:
        ax.set_title(f"{name} is not installed")
figure.savefig("three_ways.png", dpi=80)
