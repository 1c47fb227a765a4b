"""A jigsaw: a network learns where the tiles of a photograph belong (Mena et al. 2018,
arXiv:1802.08665).

    python examples/gallery/jigsaw.py    # draws jigsaw.png

It scores each tile for each place. Sinkhorn scaling makes a doubly stochastic matrix of the scores,
which is soft in training, by the entropy, and a permutation at the end.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import otjax


GRID, SIDE = 4, 12  # tiles in a row, pixels of a tile
image = load_sample_image("china.jpg")[40 : 40 + 384, 120 : 120 + 384] / np.float32(255)
image = image.reshape(GRID * SIDE, 8, GRID * SIDE, 8, 3).mean(axis=(1, 3))
tiles = image.reshape(GRID, SIDE, GRID, SIDE, 3).swapaxes(1, 2).reshape(GRID**2, -1)
tiles = jnp.asarray(tiles)


def puzzle(key):
    """The tiles in random order, under random light and with noise; and the order."""
    key_order, key_noise, key_light = jr.split(key, 3)
    order = jr.permutation(key_order, GRID**2)
    light = jr.uniform(key_light, minval=0.7, maxval=1.3)
    return light * tiles[order] + 0.1 * jr.normal(key_noise, tiles.shape), order


def soft(model, shuffled):
    return otjax.sinkhorn_knopp_log(jax.vmap(model)(shuffled), tolerance=1e-3).matrix


def loss_fn(model, key):
    """The squared error of the pieces that are put together softly."""
    shuffled, order = jax.vmap(puzzle)(jr.split(key, 4))
    put = jax.vmap(lambda some: soft(model, some).T @ some)(shuffled)
    right = jnp.take_along_axis(shuffled, jnp.argsort(order, axis=1)[:, :, None], axis=1)
    return jnp.mean((put - right) ** 2)


@eqx.filter_jit
def step(model, state, key):
    loss, gradient = eqx.filter_value_and_grad(loss_fn)(model, key)
    updates, state = optimiser.update(gradient, state)
    return eqx.apply_updates(model, updates), state, loss


optimiser = optax.adam(3e-3)
model = before = eqx.nn.MLP(tiles.shape[1], GRID**2, 64, 1, key=jr.key(0))
state = optimiser.init(eqx.filter(model, eqx.is_array))
for number in range(150):
    model, state, loss = step(model, state, jr.key(number + 1))


def places(model, shuffled):
    return otjax.assignment(-soft(model, shuffled)).columns


tests = [puzzle(jr.key(10_000 + number)) for number in range(20)]
share = lambda model: float(np.mean([jnp.mean(places(model, s) == order) for s, order in tests]))
print(f"tiles in their place: {share(before):.0%} before, {share(model):.0%} after training")

put_together = lambda some: (
    some.reshape(GRID, GRID, SIDE, SIDE, 3).swapaxes(1, 2).reshape(image.shape)
)
shuffled, order = tests[0]
solved = jnp.zeros_like(shuffled).at[places(model, shuffled)].set(shuffled)
figure = Figure(figsize=(9, 3.2), layout="tight")
axes = figure.subplots(1, 3)
axes[0].imshow(np.clip(put_together(shuffled), 0, 1))
axes[1].imshow(soft(model, shuffled), cmap="Greys", vmin=0, vmax=1)
axes[2].imshow(np.clip(put_together(solved), 0, 1))
for ax, title in zip(axes, ("shuffled", "soft permutation", "put together"), strict=True):
    ax.set(title=title, xticks=[], yticks=[])
figure.savefig("jigsaw.png", dpi=80)
