"""Learning to rank: ranks as a smooth function of scores, and their correlation as the loss.

python examples/gallery/learning_to_rank.py    # draws learning_to_rank.png
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from matplotlib.figure import Figure

import otjax


LISTS, ITEMS, FEATURES = 64, 10, 8
truth = jr.normal(jr.key(0), (FEATURES,))


def lists(key):
    """Features of the items of some lists, and the ranks that a noisy judge gave them."""
    key_features, key_noise = jr.split(key)
    features = jr.normal(key_features, (LISTS, ITEMS, FEATURES))
    noise = jr.normal(key_noise, (LISTS, ITEMS))
    merit = jnp.exp(features @ truth + noise)  # of any scale: only the order is learnt
    return features, ranks(merit)


def ranks(numbers):
    return jnp.argsort(jnp.argsort(numbers)).astype(numbers.dtype) + 1


def correlation(u, v):
    """Pearson's; of ranks it is Spearman's."""
    u, v = u - jnp.mean(u), v - jnp.mean(v)
    return jnp.sum(u * v) / jnp.sqrt(jnp.sum(u**2) * jnp.sum(v**2))


def spearman(weights, features, wanted, rank):
    of_one = lambda scores, wanted: correlation(rank(scores), wanted)
    return jnp.mean(jax.vmap(of_one)(features @ weights, wanted))


@jax.jit
def step(weights, state, key):
    features, wanted = lists(key)
    loss, gradient = jax.value_and_grad(lambda w: -spearman(w, features, wanted, otjax.soft_rank))(
        weights
    )
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(weights, updates), state, -loss


optimiser = optax.adam(0.1)
weights = first = 0.1 * jr.normal(jr.key(1), (FEATURES,))
state = optimiser.init(weights)
curve = []
for number in range(60):
    weights, state, value = step(weights, state, jr.key(number + 2))
    curve.append(float(value))
test = lists(jr.key(10_000))
before, after, best = (float(spearman(w, *test, ranks)) for w in (first, weights, truth))
print(
    f"Spearman correlation: {before:.2f} before, {after:.3f} after, {best:.3f} by the true weights"
)

figure = Figure(figsize=(4.5, 3.2), layout="tight")
ax = figure.subplots()
ax.plot(curve, label="soft ranks, in training")
ax.axhline(after, color="0.3", linestyle=":", label="hard ranks, after")
ax.set(xlabel="step", ylabel="Spearman correlation")
ax.legend()
figure.savefig("learning_to_rank.png", dpi=80)
