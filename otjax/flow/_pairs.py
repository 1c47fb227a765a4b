"""What a coupling returns, and how pairs are drawn from a plan."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int

from .._results import RESULTS
from .._varying import while_loop


class Pairs(eqx.Module):
    r"""Pairs `(x0[i], x1[j])`, and what the coupling was that they are drawn from.

    - `i`, `j`: indices, shape (k,).
    - `marginal_error`: the L1 distance of the law of `j` from the uniform one, from 0 to 2: the
      bias of the pairs on the side of `x1`. That of `i` is uniform, always. For `Semidiscrete` the
      law is that of this batch of starts: of few starts for many points it is far from uniform
      without any bias.
    - `entropy`: that of the partner of a row, relative to the entropy of all partners: 0 if each
      row has one partner, 1 if the pairs are independent.
    - `relative_cost`: the mean cost of a pair, relative to that of independent pairs.
    - `result`: a member of `RESULTS`, that of the solve behind it.
    """

    i: Int[Array, " k"]
    j: Int[Array, " k"]
    marginal_error: Float[Array, ""]
    entropy: Float[Array, ""]
    relative_cost: Float[Array, ""]
    result: RESULTS


class AbstractDraw(eqx.Module):
    """How indices are drawn from a plan."""

    @abc.abstractmethod
    def __call__(
        self, key: Array, log_density: Float[Array, "n m"], num_pairs: int
    ) -> tuple[Int[Array, " k"], Int[Array, " k"], Float[Array, "n m"]]:
        """Draws `num_pairs` pairs.

        **Arguments:**

        - `key`: a key of `jax.random`.
        - `log_density`: the logarithm of the plan's density; rows and columns have uniform masses.
        - `num_pairs`: the number k of pairs, at most n.

        **Returns:** the indices `i` and `j`, and the law of the partner of each row, whose rows
        sum to one.

        **Raises:** `ValueError` where a plan of this shape cannot be drawn from.
        """


class Rows(AbstractDraw):
    """Each row draws its partner from the plan, given the row.

    The law of the pairs is the plan itself, with rows of exactly equal mass. A partner may be drawn
    by several rows, and others by none.
    """

    def __call__(
        self, key: Array, log_density: Float[Array, "n m"], num_pairs: int
    ) -> tuple[Int[Array, " k"], Int[Array, " k"], Float[Array, "n m"]]:
        key_rows, key_partners = jr.split(key)
        i = jr.permutation(key_rows, len(log_density))[:num_pairs]
        law = jax.nn.softmax(log_density, axis=1)
        cumulative = jnp.cumsum(law[i], axis=1)
        level = jr.uniform(key_partners, (num_pairs, 1), law.dtype) * cumulative[:, -1:]
        # The first column at which the sum exceeds the level, so that it has a positive mass.
        return i, jnp.sum(cumulative <= level, axis=1, dtype=i.dtype), law


class Assignment(AbstractDraw):
    r"""Each row has one partner, and no two rows share it: of an n x n plan.

    The pair of largest density is taken, then the largest of the rest, and so on, which is near the
    optimal assignment where the plan is sharp. Both marginals are exact, whether or not the solve
    has converged, and no sample is used twice.
    """

    def __call__(
        self, key: Array, log_density: Float[Array, "n m"], num_pairs: int
    ) -> tuple[Int[Array, " k"], Int[Array, " k"], Float[Array, "n m"]]:
        n, m = log_density.shape
        if n != m:
            raise ValueError(
                f"`x1` must hold as many samples as `x0` for `Assignment()`, {n}, got {m}; or draw "
                "pairs by `Rows()`."
            )
        partners = _largest_first(log_density)
        i = jr.permutation(key, n)[:num_pairs]
        return i, partners[i], jax.nn.one_hot(partners, n, dtype=log_density.dtype)


def _largest_first(scores: Float[Array, "n n"]) -> Int[Array, " n"]:
    """Takes entries by size, each row and column once.

    In rounds: an entry that is the largest of its row and of its column, among what is left, is
    taken sooner or later, so all of them are taken at once. The largest of all is one of them, so
    each round takes some; there are few rounds.
    """
    n = len(scores)
    scores = jnp.nan_to_num(scores, nan=0.0)  # so that nothing but what is taken is at -inf

    def left(partners: Int[Array, " n"]) -> Float[Array, "n n"]:
        taken = jnp.zeros(n, bool).at[partners].set(True, mode="drop")
        return jnp.where((partners < n)[:, None] | taken[None, :], -jnp.inf, scores)

    def take(partners: Int[Array, " n"]) -> Int[Array, " n"]:
        rest = left(partners)
        best, suitor = (jnp.argmax(rest, axis=axis) for axis in (1, 0))
        mutual = (partners == n) & (suitor[best] == jnp.arange(n))
        return jnp.where(mutual, best.astype(partners.dtype), partners)

    def unfinished(partners: Int[Array, " n"]) -> Bool[Array, ""]:
        return jnp.any(partners == n)

    return while_loop(unfinished, take, jnp.full((n,), n, jnp.int32))
