r"""Mass that is not transported: partial transport, and penalties in total variation.

Each side gets one more point, which takes in what the other side leaves, at a price (Caffarelli and
McCann 2010, doi:10.4007/annals.2010.171.673; Chapel, Alaya and Gasso 2020, arXiv:2002.08276). The
problem with these points is balanced, and is solved, differentiated and regularised as one:

$$\tilde P = \begin{pmatrix} P & u \\ v^T & w \end{pmatrix}, \qquad
  P 1 + u = a, \quad P^T 1 + v = b.$$
"""

from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ._arrays import float_scalar, inner
from ._geometry import AbstractGeometry, AbstractPlan, Prepared
from ._marginals import AbstractMarginal, Balanced
from ._problem import EntropicProblem, PreparedProblem
from ._reduction import without_infinities
from ._results import RESULTS


class AbstractSlack(AbstractMarginal):
    """A marginal that may be less than the given masses. With what is left it equals them, so that
    as a part of the problem with slack it is `Balanced`."""

    def dual(self, f: Float[Array, " n"], a: Float[Array, " n"]) -> Float[Array, ""]:
        return inner(a, f)

    def share(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.ones_like(f)

    def damping(self, epsilon: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.ones_like(epsilon)

    def softness(self) -> Float[Array, ""]:
        return jnp.zeros((), jnp.result_type(float))


class TotalVariation(AbstractSlack):
    r"""Mass of this side may be left where it is, at the price `rho` for each unit: the penalty
    $\rho \sum_i |(P1)_i - a_i|$, with $P1 \le a$.

    So nothing goes further than what both sides pay for leaving it. What is left, $u = a - P1$, is
    regularised as the plan is: by $\epsilon \mathrm{KL}(u | a \, |a|)$.
    """

    rho: Float[Array, ""]

    def __init__(self, rho: ArrayLike):
        """**Arguments:**

        - `rho`: the price of leaving a unit of mass, positive, in the unit of the cost. May be
            traced.

        **Raises:** `ValueError` if `rho` is not one number; a value that is not positive and
        finite is reported by the solve, as `RESULTS.invalid_rho`.
        """
        self.rho = float_scalar(rho, "rho", jnp.result_type(float))

    def prepare(self) -> tuple["TotalVariation", Bool[Array, ""]]:
        valid = jnp.isfinite(self.rho) & (self.rho > 0)
        return TotalVariation(jnp.where(valid, self.rho, 1)), valid


class Partial(AbstractSlack):
    r"""A given share of the mass is transported, that which costs least: $P1 \le a$,
    $P^T1 \le b$, and P has the mass `share` times that of the lighter side. For both sides at once.

    What is left is regularised as the plan is. A share of 1 between measures of one mass is the
    balanced problem.
    """

    share_of_mass: Float[Array, ""]

    def __init__(self, share: ArrayLike):
        """**Arguments:**

        - `share`: between 0 and 1, of the mass of the lighter side. May be traced.

        **Raises:** `ValueError` if `share` is not one number; a value that is not above 0, and at
        most 1, is reported by the solve, as `RESULTS.invalid_share`.
        """
        self.share_of_mass = float_scalar(share, "share", jnp.result_type(float))

    def prepare(self) -> tuple["Partial", Bool[Array, ""]]:
        return Partial(jnp.where(self._valid, self.share_of_mass, 1)), jnp.array(True)

    @property
    def _valid(self) -> Bool[Array, ""]:
        return (self.share_of_mass > 0) & (self.share_of_mass <= 1)


def has_slack(problem: EntropicProblem | PreparedProblem) -> bool:
    """Whether mass may be left on either side.

    **Raises:** `ValueError` for two sides that do not go together.
    """
    sides = problem.marginals
    slack = [isinstance(side, AbstractSlack) for side in sides]
    partial = [isinstance(side, Partial) for side in sides]
    if any(partial) and not all(partial):
        raise ValueError(
            "`marginals` must be `Partial(share)` for both sides or for none, since the mass that "
            f"is transported is one; got {sides!r}."
        )
    if any(slack) and not all(isinstance(side, (AbstractSlack, Balanced)) for side in sides):
        raise ValueError(
            "`marginals` must be `TotalVariation(rho)` or `Balanced()` on the other side of a "
            f"`TotalVariation(rho)`, got {sides!r}."
        )
    return any(slack)


def with_slack(
    problem: EntropicProblem, prepared: PreparedProblem
) -> tuple[PreparedProblem, RESULTS]:
    """The balanced problem with one more point on each side, and what is wrong with its numbers;
    the same problem where no mass may be left."""
    if not has_slack(problem):
        return prepared, RESULTS.successful
    a, b = prepared.a, prepared.b
    total_a, total_b = jnp.sum(a), jnp.sum(b)
    forbidden = without_infinities(jnp.asarray(jnp.inf, a.dtype))
    # Prices are in the unit of the prepared costs.
    unit = prepared.unit
    side_a, side_b = (side.prepare()[0] for side in problem.marginals)
    result = RESULTS.successful
    if isinstance(side_a, Partial):
        share = side_a.share_of_mass.astype(a.dtype)
        mass = share * jnp.minimum(total_a, total_b)
        price_a = price_b = jnp.zeros_like(share)
        corner = forbidden
        spare_a, spare_b = jnp.maximum(total_b - mass, 0), jnp.maximum(total_a - mass, 0)
        first, second = (cast(Partial, side) for side in problem.marginals)
        valid = first._valid & second._valid & (first.share_of_mass == second.share_of_mass)
        result = RESULTS.where(valid, result, RESULTS.invalid_share)
    else:
        price_a, price_b = (
            side.rho.astype(a.dtype) / unit if isinstance(side, TotalVariation) else forbidden
            for side in (side_a, side_b)
        )
        corner = jnp.zeros_like(price_a)
        spare_a, spare_b = total_b, total_a
    geometry = WithSlack(prepared.geometry, price_a, price_b, corner)
    whole = eqx.tree_at(
        lambda p: (p.geometry, p.a, p.b, p.marginals),
        prepared,
        (
            geometry,
            jnp.append(a, spare_a),
            jnp.append(b, spare_b),
            (Balanced(), Balanced()),
        ),
    )
    return whole, result


class WithSlack(AbstractGeometry):
    """A prepared geometry with one more point on each side: leaving a point of the first side costs
    `price_a`, of the second `price_b`; `corner` is the cost between the two that were added."""

    geometry: AbstractGeometry
    price_a: Float[Array, ""]
    price_b: Float[Array, ""]
    corner: Float[Array, ""]

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.geometry.shape
        return n + 1, m + 1

    @property
    def dtype(self) -> jnp.dtype:
        return self.geometry.dtype

    @property
    def T(self) -> "WithSlack":
        return WithSlack(self.geometry.T, self.price_b, self.price_a, self.corner)

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        prepared = self.geometry.prepare(a[:-1], b[:-1])
        geometry = WithSlack(prepared.geometry, self.price_a, self.price_b, self.corner)
        return prepared._replace(geometry=geometry)

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        inside = self.geometry.softmin(h[:-1], epsilon) / epsilon
        left = -epsilon * jnp.logaddexp(-inside, (h[-1] - self.price_a) / epsilon)
        prices = jnp.append(jnp.full_like(h[:-1], self.price_b), self.corner)
        return jnp.append(left, -epsilon * jax.nn.logsumexp((h - prices) / epsilon))

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "SlackPlan":
        dtype = dtype or f.dtype
        density = lambda scores: jnp.exp((scores / epsilon).astype(dtype))
        return SlackPlan(
            self.geometry.plan(f[:-1], g[:-1], epsilon, dtype),
            density(f[:-1] + g[-1] - self.price_a),
            density(f[-1] + g[:-1] - self.price_b),
            density(f[-1] + g[-1] - self.corner),
        )


class SlackPlan(AbstractPlan):
    """A plan with one more row and one more column."""

    inside: AbstractPlan
    column: Float[Array, " n"]
    row: Float[Array, " m"]
    corner: Float[Array, ""]

    def mv(self, vectors: Float[Array, " m *k"]) -> Float[Array, " n *k"]:
        flat = vectors.reshape(vectors.shape[0], -1)
        top = self.inside.mv(flat[:-1]) + self.column[:, None] * flat[-1][None, :]
        last = jnp.sum(self.row[:, None] * flat[:-1], axis=0) + self.corner * flat[-1]
        return jnp.concatenate([top, last[None, :]]).reshape(-1, *vectors.shape[1:])

    def squared_mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        top = self.inside.squared_mv(vector[:-1]) + jnp.square(self.column) * vector[-1]
        last = jnp.sum(jnp.square(self.row) * vector[:-1]) + jnp.square(self.corner) * vector[-1]
        return jnp.append(top, last)

    def as_matrix(self) -> Float[Array, "n m"]:
        top = jnp.concatenate([self.inside.as_matrix(), self.column[:, None]], axis=1)
        return jnp.concatenate([top, jnp.append(self.row, self.corner)[None, :]])

    @property
    def T(self) -> "SlackPlan":
        return SlackPlan(self.inside.T, self.row, self.column, self.corner)
