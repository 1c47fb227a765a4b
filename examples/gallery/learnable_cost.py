"""A ground cost that is learnt: which coordinates tell who belongs to whom?

    python examples/gallery/learnable_cost.py    # draws learnable_cost.png

Pairs are known for training. Two coordinates of six hold the identity, four are noise; the plan's
entries at the known pairs are differentiated by the weights inside the cost.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array
from matplotlib.figure import Figure

import otjax
from otjax import plot


NUM, USEFUL, NOISE = 30, 2, 4


class Weighted(eqx.Module):
    """Squared distance with a weight for each coordinate, positive and of sum 1."""

    logits: Array

    def weights(self):
        return jax.nn.softmax(self.logits)

    def __call__(self, x, y):
        return jnp.sum(self.weights() * (x - y) ** 2)


def pairs(key):
    keys = jr.split(key, 4)
    identity = jr.normal(keys[0], (NUM, USEFUL))
    copy = identity + 0.1 * jr.normal(keys[1], (NUM, USEFUL))
    noise, other = (jr.normal(k, (NUM, NOISE)) for k in keys[2:])
    return jnp.hstack([identity, noise]), jnp.hstack([copy, other])


def solve(cost, key):
    problem = otjax.EntropicProblem(otjax.PointCloud(*pairs(key), cost=cost), epsilon=0.05)
    return otjax.solve(problem, tolerance=1e-3, throw=False)


def loss_fn(cost, key):
    """The mean negative logarithm of the probability of the known partner."""
    solution, (x, y) = solve(cost, key), pairs(key)
    f, g = solution.potentials
    return -jnp.mean(f + g - jax.vmap(cost)(x, y)) / 0.05 + jnp.log(NUM)


@eqx.filter_jit
def step(cost, state, key):
    loss, gradient = eqx.filter_value_and_grad(loss_fn)(cost, key)
    updates, state = optimiser.update(gradient, state)
    return eqx.apply_updates(cost, updates), state, loss


def right_pairs(cost):
    """The share of points whose largest entry of the plan is their partner, on fresh pairs."""
    plan = solve(cost, jr.key(10_000)).plan.as_matrix()
    return float(jnp.mean(jnp.argmax(plan, axis=1) == jnp.arange(NUM)))


optimiser = optax.adam(0.1)
cost = before = Weighted(jnp.zeros(USEFUL + NOISE))
state = optimiser.init(cost)
for number in range(60):
    cost, state, loss = step(cost, state, jr.key(number))
weights = cost.weights()
print(f"weights: {', '.join(f'{w:.2f}' for w in weights)}")
print(f"right pairs: {right_pairs(before):.0%} before, {right_pairs(cost):.0%} after")

axes = Figure(figsize=(9, 3), layout="tight").subplots(1, 3)
plot.plan_matrix(solve(before, jr.key(10_000)), ax=axes[0]).set_title("plan, equal weights")
plot.plan_matrix(solve(cost, jr.key(10_000)), ax=axes[1]).set_title("plan, learnt weights")
axes[2].bar(range(len(weights)), weights)
axes[2].set(xlabel="coordinate", title="weights of the cost")
axes[0].figure.savefig("learnable_cost.png", dpi=80)
