"""A Wasserstein GAN in the plane, whose critic is 1-Lipschitz by its layers.

    python examples/gallery/wasserstein_gan.py    # draws wasserstein_gan.png

No penalty and no clipping: the critic's layers keep distances, whatever their parameters, so that
its value bounds W1 from below at every step.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from matplotlib.figure import Figure

import otjax
from otjax import gan, nn


def data(key, number=128):
    """Eight Gaussians on a circle."""
    key_mode, key_noise = jr.split(key)
    angle = jr.randint(key_mode, (number,), 0, 8) * jnp.pi / 4
    centres = 1.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return centres + 0.1 * jr.normal(key_noise, (number, 2))


STEPS = 300
adam = lambda rate, steps: optax.adam(optax.cosine_decay_schedule(rate, steps), b1=0.5, b2=0.9)
trainer = gan.Trainer(
    gan.WGAN(),
    generator_optimiser=adam(2e-3, STEPS),
    critic_optimiser=adam(3e-3, 5 * STEPS),
    latent=2,
    batch_size=128,
    ema_decay=0.99,
)
generator = nn.MLPGenerator(2, 2, width=128, depth=2, key=jr.key(0))
critic = nn.LipschitzMLP(2, width=64, key=jr.key(1))
state = trainer.init(generator, critic, key=jr.key(2))
curve = []
for _ in range(STEPS):
    state, metrics = trainer.step(state, data)
    curve.append(float(metrics["w1"]))

latents = jr.normal(jr.key(3), (250, 2))
real = data(jr.key(4), 250)
first, samples = jax.vmap(generator)(latents), jax.vmap(state.ema)(latents)
before, after, chance = (
    float(otjax.wasserstein(some, real, p=1, gap=1e-2))
    for some in (first, samples, data(jr.key(5), 250))
)
print(f"W1 to the data: {before:.3f} before, {after:.3f} after, {chance:.3f} of other data")

figure = Figure(figsize=(8.4, 3.6), layout="tight")
left, right = figure.subplots(1, 2)
left.plot(curve)
left.set(xlabel="step", title="the critic's bound of W1")
line = np.linspace(-2.3, 2.3, 80, dtype=np.float32)
plane = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
right.contour(
    line, line, jax.vmap(state.critic)(plane).reshape(80, 80), 14, cmap="Greys", linewidths=0.6
)
right.scatter(*real.T, s=3, color="0.6", label="data")
right.scatter(*samples.T, s=3, label="samples")
right.set(title="samples, and the critic's levels", aspect="equal")
right.legend(loc="center")
figure.savefig("wasserstein_gan.png", dpi=80)
