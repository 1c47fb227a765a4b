"""The sites of semi-discrete transport: what a batch of samples tells of their potential."""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._geometry import PointCloud
from .._ground_cost import GroundCost
from .._maps import nearest
from .._reduction import map_pairs_with_sums, Pairs
from .._unit import over


class Sites(eqx.Module):
    """Points with masses of total 1, their cost, and the entropy's epsilon, if there is one."""

    y: Float[Array, "m d"]
    b: Float[Array, " m"]
    cost: GroundCost
    epsilon: Float[Array, ""] | None

    def scores(self, g: Float[Array, " m"]) -> Float[Array, " m"]:
        """What is compared with costs: a site of mass zero does not exist."""
        alive = self.b > 0
        if self.epsilon is not None:
            g = g + self.epsilon * jnp.log(jnp.where(alive, self.b, 1))
        return jnp.where(alive, g, -jnp.inf)

    def look(
        self, x: Float[Array, "k d"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " k"], Float[Array, " m"]]:
        """The potential at samples, the (soft) c-transform of `g`, and the share of the samples
        that goes to each site."""
        k = x.shape[0]
        if self.epsilon is None:
            cells, f = nearest(x, self.y, self.scores(g), cost=self.cost)
            return f, jnp.zeros_like(g).at[cells].add(1 / k)
        h, epsilon = self.scores(g), self.epsilon

        def of_rows(pairs: Pairs) -> tuple[Float[Array, " k"], Float[Array, " m"]]:
            scores = over(h[None, :] - pairs.matrix(), epsilon)
            largest = jnp.max(scores, axis=1)
            entries = jnp.exp(scores - largest[:, None])
            totals = jnp.sum(entries, axis=1)
            # A product: sums along columns would make each entry anew.
            law = jnp.matmul(1 / totals, entries, precision=lax.Precision.HIGHEST)
            return -epsilon * (largest + jnp.log(totals)), law

        pairs = Pairs(x, self.y, self.cost)
        f, law = map_pairs_with_sums(of_rows, pairs, sums=jnp.zeros_like(g))
        return f, law / k

    def cells(self, x: Float[Array, "k d"], g: Float[Array, " m"]) -> Int[Array, " k"]:
        """The site that each sample has most to do with."""
        return nearest(x, self.y, self.scores(g), cost=self.cost)[0]

    def means(self, x: Float[Array, "k d"], g: Float[Array, " m"]) -> Float[Array, "k d"]:
        """Where samples go, on average."""
        if self.epsilon is None:
            return self.y[self.cells(x, g)]
        geometry = PointCloud(x, self.y, cost=self.cost)
        f = geometry.softmin(self.scores(g), self.epsilon)
        b = self.b[:, None]
        columns = jnp.concatenate([b, b * self.y], axis=1)
        weighted = geometry.plan(f, g, self.epsilon).mv(columns)
        return weighted[:, 1:] / weighted[:, :1]
