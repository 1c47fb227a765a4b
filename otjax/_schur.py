r"""The Schur complement of the dual's Hessian, and conjugate gradients on it.

With $r = P1$, $c = P^T1$ the marginals of the plan at hand and $\lambda$ the dampings of the two
sides, a move $dg$ of one potential, the other following, changes the dual's gradient by
$-S\,dg / \epsilon$ with

$$S = \mathrm{diag}(c) / \lambda_b - \lambda_a P^T \mathrm{diag}(1/r) P,$$

symmetric and positive semi-definite. Balanced problems leave the direction 1 open; adding
$c c^T / \sum c$ closes it without moving any other direction. Newton's step and the implicit
derivative both solve with S.
"""

from collections.abc import Callable

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._operators import TransportPlan
from ._problem import EntropicProblem


class Schur(eqx.Module):
    """The Schur complement of a plan, in the second potential."""

    plan: TransportPlan
    row: Float[Array, " n"]
    column: Float[Array, " m"]
    dampings: tuple[Float[Array, ""], Float[Array, ""]]
    has_gauge: bool = eqx.field(static=True)

    def __init__(
        self,
        problem: EntropicProblem,
        plan: TransportPlan,
        row: Float[Array, " n"] | None = None,
        column: Float[Array, " m"] | None = None,
    ):
        """**Arguments:**

        - `problem`, `plan`: the problem and the plan of a pair of potentials.
        - `row`, `column`: `plan.density.mv(plan.b)` and the plan's second marginal, where known.
        """
        self.plan = plan
        self.row = plan.density.mv(plan.b) if row is None else row
        transposed = plan.density.transpose()
        self.column = plan.b * transposed.mv(plan.a) if column is None else column
        side_a, side_b = problem.marginals
        self.dampings = side_a.damping(problem.epsilon), side_b.damping(problem.epsilon)
        self.has_gauge = problem.has_gauge

    def follow(self, dg: Float[Array, " m"]) -> Float[Array, " n"]:
        """How the first potential's half-step moves with the second potential."""
        return -self.dampings[0] * self.plan.density.mv(self.plan.b * dg) / self.row

    def mv(self, dg: Float[Array, " m"]) -> Float[Array, " m"]:
        """The product with `dg`."""
        pulled = self.plan.transpose().mv(self.follow(dg))
        product = self.column * dg / self.dampings[1] + pulled
        if self.has_gauge:
            product += self.column * (jnp.sum(self.column * dg) / jnp.sum(self.column))
        return product

    def inverse_diagonal(self) -> Float[Array, " m"]:
        """A preconditioner: the inverse of the diagonal part, 0 for points of mass zero."""
        alive = self.column > 0
        return jnp.where(alive, 1 / jnp.where(alive, self.column, 1), 0) * self.dampings[1]


def conjugate_gradients(
    mv: Callable[[Float[Array, " m"]], Float[Array, " m"]],
    rhs: Float[Array, " m"],
    preconditioner: Float[Array, " m"],
    *,
    tolerance: Float[Array, ""],
    max_steps: int | Int[Array, ""],
    patience: int = 100,
) -> tuple[Float[Array, " m"], Int[Array, ""]]:
    """Solves `mv(x) = rhs` from `x = 0`; `preconditioner` is a diagonal.

    Stops when the residual has shrunk by `tolerance` in the preconditioner's norm, and, since
    float32 has a floor, when it has found no better one for `patience` steps. The iterate of the
    least residual is returned, so that what comes out is finite whatever happens.
    """

    def unfinished(state):
        _, _, _, size, best_size, _, since, step = state
        return (
            (best_size > tolerance**2 * initial)
            & (size > 0)
            & jnp.isfinite(size)
            & (since < patience)
            & (step < max_steps)
        )

    def body(state):
        x, residual, direction, size, best_size, best, since, step = state
        image = mv(direction)
        curvature = jnp.sum(direction * image)
        length = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1), 0)
        x = x + length * direction
        residual = residual - length * image
        preconditioned = preconditioner * residual
        new_size = jnp.sum(residual * preconditioned)
        direction = preconditioned + new_size / size * direction
        better = new_size < best_size
        best = jnp.where(better, x, best)
        since = jnp.where(new_size < 0.9 * best_size, 0, since + 1)
        best_size = jnp.where(better, new_size, best_size)
        since = jnp.where(curvature > 0, since, patience)
        return x, residual, direction, new_size, best_size, best, since, step + 1

    zero = jnp.zeros_like(rhs)
    initial = jnp.sum(rhs * preconditioner * rhs)
    start = (zero, rhs, preconditioner * rhs, initial, initial, zero, 0, 0)
    final = lax.while_loop(unfinished, body, start)
    return final[5], final[7]
