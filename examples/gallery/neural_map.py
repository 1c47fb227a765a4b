"""A map that is the gradient of a convex network, from a normal distribution to four blobs.

python examples/gallery/neural_map.py    # draws neural_map.png

It is learnt from samples alone, and then maps any point, and back.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from matplotlib.figure import Figure

import otjax
from otjax import neural, plot


def normal(key):
    return jr.normal(key, (256, 2))


def blobs(key):
    key_corner, key_noise = jr.split(key)
    corner = jr.rademacher(key_corner, (256, 2), jnp.float32)
    return 2 * corner * jnp.array([1.0, 0.6]) + 0.35 * jr.normal(key_noise, (256, 2))


descent = neural.Descent(max_steps=3000)
found = neural.neural_map(normal, blobs, key=jr.key(0), descent=descent, throw=False)

draw = lambda sampler, seed: jnp.concatenate([sampler(jr.key(seed + i)) for i in range(4)])
x, y = draw(normal, 10), draw(blobs, 20)
axes = Figure(figsize=(11, 3.6), layout="tight").subplots(1, 3)
plot.potential(found.potential, x, ax=axes[0]).set_title("convex potential")
plot.map_arrows(found.transport, x[:150], ax=axes[1]).set_title("map")
axes[2].scatter(*y.T, s=6, color="lightgrey", label="target")
axes[2].scatter(*found.transport(x).T, s=6, label="images")
axes[2].set_title("images of other samples")
axes[2].legend(loc="upper center", ncols=2)
axes[2].set_ylim(top=4.4)
axes[0].figure.savefig("neural_map.png", dpi=80)

linear = otjax.gaussian_map(x.mean(axis=0), jnp.cov(x.T), y.mean(axis=0), jnp.cov(y.T))
far = jax.jit(lambda images: otjax.sinkhorn_divergence(images, y, epsilon=0.1))
print(f"squared distance: {found.value:.3f}, to {found.value_error:.3f}")
print(
    f"divergence of the images from the target: {far(linear(x)):.3f} of the best linear map, "
    f"{far(found.transport(x)):.4f} of this one, {far(draw(blobs, 30)):.4f} of other samples of it"
)
