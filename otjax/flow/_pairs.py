"""What a coupling returns, and how pairs are drawn from a plan."""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._couplings import columns_of, one_to_one
from .._dual import transport_plan
from .._plan_rows import rows
from .._problem import PreparedProblem
from .._reduction import by_rows, Pairs as Costs
from .._results import RESULTS


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


class Drawn(NamedTuple):
    """Pairs of indices, and the joint law that they are drawn from.

    - `i`, `j`: indices, shape (k,).
    - `column`: the law of `j`, shape (m,).
    - `entropy`: the mean entropy of the partner of a row, in nats.
    - `cost`: the mean cost of a pair.
    """

    i: Int[Array, " k"]
    j: Int[Array, " k"]
    column: Float[Array, " m"]
    entropy: Float[Array, ""]
    cost: Float[Array, ""]


def evaluated(
    drawn: Drawn,
    target: Float[Array, " m"] | float,
    independent: Float[Array, ""],
    result: RESULTS,
) -> Pairs:
    """The pairs, beside those of independent partners: these have the law `target`, and cost
    `independent` on average."""
    return Pairs(
        drawn.i,
        drawn.j,
        marginal_error=jnp.sum(jnp.abs(drawn.column - target)),
        entropy=drawn.entropy / (math.log(len(drawn.column)) or 1),
        relative_cost=relative(drawn.cost, independent),
        result=result,
    )


def relative(cost: Float[Array, ""], independent: Float[Array, ""]) -> Float[Array, ""]:
    """The cost relative to that of independent pairs; 1 where these cost nothing."""
    positive = independent > 0
    return jnp.where(positive, cost / jnp.where(positive, independent, 1), 1)


class JointLaw(NamedTuple):
    """A plan between two batches, n x m, as draws see it.

    - `problem`, `potentials`: a problem, and potentials of it, whose plan has rows of equal mass.
    - `costs`: what pairs cost, which may be less than the problem says, that of conditions.
    """

    problem: PreparedProblem
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    costs: Costs

    @property
    def shape(self) -> tuple[int, int]:
        return self.costs.shape


def entropy_and_cost(
    law: Float[Array, "k m"], costs: Float[Array, "k m"]
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Of the law of the partner of each row: its entropy, in nats, and what it pays on average."""
    surprise = jnp.where(law > 0, law * -jnp.log(jnp.where(law > 0, law, 1)), 0)
    return jnp.sum(surprise, axis=1), jnp.sum(law * costs, axis=1)


class AbstractDraw(eqx.Module):
    """How indices are drawn from a plan."""

    @abc.abstractmethod
    def __call__(self, key: Array, joint: JointLaw, num_pairs: int) -> Drawn:
        """Draws `num_pairs` pairs.

        **Arguments:**

        - `key`: a key of `jax.random`.
        - `joint`: what is drawn from: its `problem`, n x m, with `potentials` whose plan
            (`transport_plan`) has rows of equal mass, and the `costs` of pairs.
        - `num_pairs`: the number k of pairs, at most n.

        **Raises:** `ValueError` where a plan of this shape cannot be drawn from.
        """


class Rows(AbstractDraw):
    """Each row draws its partner from the plan, given the row.

    The law of the pairs is the plan itself, with rows of exactly equal mass. A partner may be drawn
    by several rows, and others by none.
    """

    def __call__(self, key: Array, joint: JointLaw, num_pairs: int) -> Drawn:
        key_rows, key_partners = jr.split(key)
        (n, m), costs = joint.shape, joint.costs
        i = jr.permutation(key_rows, n)[:num_pairs]
        plan = transport_plan(joint.problem, *joint.potentials)

        def of_rows(block: Int[Array, " k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
            matrix = Costs(costs.x[block], costs.y, costs.cost).matrix()
            return entropy_and_cost(n * rows(plan, block), matrix)

        entropies, paid = by_rows(of_rows, jnp.arange(n), m)
        return Drawn(
            i,
            columns_of(plan, i, key_partners),
            plan.T.mv(jnp.ones_like(plan.a)),
            jnp.mean(entropies),
            jnp.mean(paid),
        )


class Assignment(AbstractDraw):
    r"""Each row has one partner, and no two rows share it: of an n x n plan.

    The pair of largest density is taken, then the largest of the rest, and so on, which is near the
    optimal assignment where the plan is sharp. Both marginals are exact, whether or not the solve
    has converged, and no sample is used twice.
    """

    def __call__(self, key: Array, joint: JointLaw, num_pairs: int) -> Drawn:
        (n, m), costs = joint.shape, joint.costs
        if n != m:
            raise ValueError(
                f"`x1` must hold as many samples as `x0` for `Assignment()`, {n}, got {m}; or draw "
                "pairs by `Rows()`."
            )
        partners = one_to_one(joint.problem, *joint.potentials)
        i = jr.permutation(key, n)[:num_pairs]
        paid = jnp.mean(jax.vmap(costs.cost)(costs.x, costs.y[partners]))
        column, zero = jnp.full((n,), 1 / n, paid.dtype), jnp.zeros_like(paid)
        return Drawn(i, partners[i], column, zero, paid)
