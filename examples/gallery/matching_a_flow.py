"""Flow matching: pairs from transport make straighter ways than pairs at random.

    python examples/gallery/matching_a_flow.py    # draws matching_a_flow.png

A velocity field is fitted to straight ways between noise and data (Lipman et al. 2023,
arXiv:2210.02747), with pairs of each batch at random or from its plan (Tong et al. 2024,
arXiv:2302.00482). Straight ways need few steps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from matplotlib.figure import Figure

import otjax
from otjax import flow


class Field(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, t, x):
        return self.layers(jnp.append(x, t))


def batch(key, number=256):
    """Noise, and eight Gaussians on a circle."""
    key_noise, key_mode, key_place = jr.split(key, 3)
    angle = jr.randint(key_mode, (number,), 0, 8) * (jnp.pi / 4)
    centre = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return jr.normal(key_noise, (number, 2)), centre + 0.15 * jr.normal(key_place, (number, 2))


def train(coupling, steps=1500):
    optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    @eqx.filter_jit
    def step(field, state, key):
        key_batch, key_loss = jr.split(key)
        loss_fn = lambda field: flow.velocity_loss(
            field, key_loss, *batch(key_batch), coupling=coupling
        )
        loss, gradient = eqx.filter_value_and_grad(loss_fn)(field)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(field, updates), state, loss

    field = Field(eqx.nn.MLP(3, 2, 128, 3, activation=jax.nn.silu, key=jr.key(0)))
    state = optimiser.init(eqx.filter(field, eqx.is_array))
    for number in range(steps):
        field, state, _ = step(field, state, jr.key(number))
    return field


figure = Figure(figsize=(10, 5.2), layout="tight")
axes = figure.subplots(2, 4)
noise, real = batch(jr.key(9999), 400)
for line, (name, coupling) in zip(
    axes,
    {"random": flow.Independent(), "transport": flow.Minibatch(epsilon=0.05)}.items(),
    strict=True,
):
    field = train(coupling)
    whole = flow.integrate(field, noise, num_steps=50)
    few = flow.integrate(field, noise, num_steps=2)
    errors = [float(otjax.wasserstein(end.samples, real, gap=0.02)) for end in (whole, few)]
    print(
        f"pairs by {name}: straightness {whole.straightness:.3f}; "
        f"W2 {errors[0]:.2f} after 50 steps, {errors[1]:.2f} after 2"
    )
    ways = [
        flow.integrate(field, noise[:60], end=t, num_steps=20).samples
        for t in jnp.linspace(0.05, 1, 12)
    ]
    line[0].plot(*jnp.stack([noise[:60], *ways]).transpose(2, 0, 1), color="0.4", linewidth=0.6)
    line[0].set_title(f"{name}: ways")
    line[1].scatter(*whole.samples.T, s=2)
    line[1].set_title("50 steps")
    line[2].scatter(*few.samples.T, s=2)
    line[2].set_title("2 steps")
    line[3].scatter(*real.T, s=2, color="0.5")
    line[3].set_title("data")
for ax in axes.flat:
    ax.set(aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
figure.savefig("matching_a_flow.png", dpi=70)
