"""A generator whose only loss is the Sinkhorn divergence (W2): no critic, no game.

python examples/gallery/generator_without_critic.py    # draws generator_without_critic.png
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from matplotlib.figure import Figure

import otjax
from otjax import gan, nn


def data(key, number=128):
    """Two moons."""
    key_moon, key_angle, key_noise = jr.split(key, 3)
    upper = jr.bernoulli(key_moon, shape=(number,))
    angle = jnp.pi * jr.uniform(key_angle, (number,)) + jnp.where(upper, 0.0, jnp.pi)
    middle = jnp.where(upper[:, None], jnp.array([-0.5, -0.25]), jnp.array([0.5, 0.25]))
    points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) + middle
    return points + 0.06 * jr.normal(key_noise, (number, 2))


def latent(key):
    """Gaussian noise, and a coin: nothing need stretch between the moons."""
    key_noise, key_coin = jr.split(key)
    return jnp.append(jr.normal(key_noise, (2,)), 2.0 * jr.bernoulli(key_coin) - 1)


STEPS = 300
trainer = gan.Trainer(
    gan.SinkhornGAN(0.02, solver=otjax.Sinkhorn(tolerance=1e-2)),
    generator_optimiser=optax.adam(optax.cosine_decay_schedule(5e-3, STEPS)),
    latent=latent,
    batch_size=128,
    n_critic=0,
    ema_decay=0.99,
)
generator = nn.MLPGenerator(3, 2, width=128, depth=2, key=jr.key(0))
state = trainer.init(generator, key=jr.key(1))
latents, real = jax.vmap(latent)(jr.split(jr.key(2), 250)), data(jr.key(3), 250)
pictures, curve = {0: generator}, []
for number in range(1, STEPS + 1):
    state, metrics = trainer.step(state, data)
    curve.append(float(metrics["divergence"]))
    if number in (30, 100, STEPS):
        pictures[number] = state.generator if number < STEPS else state.ema

w2 = lambda points: float(otjax.wasserstein(points, real, p=2, gap=1e-2))
before, after = w2(jax.vmap(generator)(latents)), w2(jax.vmap(state.ema)(latents))
chance = w2(data(jr.key(4), 250))
print(f"W2 to the data: {before:.3f} before, {after:.3f} after, {chance:.3f} of other data")

figure = Figure(figsize=(11, 2.7), layout="tight")
axes = figure.subplots(1, 5)
for ax, (number, model) in zip(axes, pictures.items(), strict=False):
    ax.scatter(*real.T, s=2, color="0.7")
    ax.scatter(*jax.vmap(model)(latents).T, s=2)
    ax.set(title=f"step {number}", aspect="equal", xlim=(-2, 2), ylim=(-1.6, 1.6))
axes[-1].semilogy(jnp.maximum(jnp.array(curve), 1e-4))
axes[-1].set(xlabel="step", title="divergence", box_aspect=0.8)
figure.savefig("generator_without_critic.png", dpi=80)
