"""Plans that are made anew at each product."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._reduction import AbstractEngine, apply, Pairs
from ._base import AbstractPlan


class RecomputedPlan(AbstractPlan):
    """The plan of a point cloud, made anew by its engine whenever it is applied."""

    engine: AbstractEngine
    pairs: Pairs
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    dtype: jnp.dtype = eqx.field(static=True)

    def mv(self, vectors: Float[Array, " m *k"]) -> Float[Array, " n *k"]:
        columns = vectors.astype(self.dtype).reshape(vectors.shape[0], -1)
        product = apply(self.engine, self.pairs, self.f, self.g, self.epsilon, columns)
        return product.reshape(-1, *vectors.shape[1:])

    def squared_mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        halved = eqx.tree_at(lambda plan: plan.epsilon, self, 0.5 * self.epsilon)
        return halved.mv(vector)

    def as_matrix(self) -> Float[Array, "n m"]:
        scores = (self.f[:, None] + self.g[None, :] - self.pairs.matrix()) / self.epsilon
        return jnp.exp(scores.astype(self.dtype))

    @property
    def T(self) -> "RecomputedPlan":
        return RecomputedPlan(self.engine, self.pairs.T, self.g, self.f, self.epsilon, self.dtype)
