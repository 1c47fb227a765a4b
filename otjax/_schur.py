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
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._operators import TransportPlan
from ._problem import PreparedProblem
from ._varying import while_loop


class Schur(eqx.Module):
    """The Schur complement of a plan, in the second potential."""

    plan: TransportPlan
    row: Float[Array, " n"]
    column: Float[Array, " m"]
    dampings: tuple[Float[Array, ""], Float[Array, ""]]
    has_gauge: bool = eqx.field(static=True)

    def __init__(self, problem: PreparedProblem, plan: TransportPlan):
        """**Arguments:**

        - `problem`: the problem.
        - `plan`: that of a pair of potentials; its dtype is that of all products.
        """
        self.plan = plan
        self.row = plan.density.mv(plan.b)
        self.column = plan.b * plan.density.T.mv(plan.a)
        side_a, side_b = (side.damping(problem.epsilon) for side in problem.marginals)
        self.dampings = side_a.astype(plan.b.dtype), side_b.astype(plan.b.dtype)
        self.has_gauge = problem.has_gauge

    def follow(self, dg: Float[Array, " m"]) -> Float[Array, " n"]:
        """How the first potential's half-step moves with the second potential."""
        return -self.dampings[0] * self.plan.density.mv(self.plan.b * dg) / self.row

    def mv(self, dg: Float[Array, " m"]) -> Float[Array, " m"]:
        """The product with `dg`."""
        pulled = self.plan.T.mv(self.follow(dg))
        product = self.column * dg / self.dampings[1] + pulled
        if self.has_gauge:
            product += self.column * (jnp.sum(self.column * dg) / jnp.sum(self.column))
        return product

    def inverse_diagonal(self) -> Float[Array, " m"]:
        """A preconditioner: the inverse of the diagonal, 0 for points of mass zero."""
        squares = self.plan.density.T.squared_mv(self.plan.a / self.row)
        diagonal = self.column / self.dampings[1]
        diagonal -= self.dampings[0] * jnp.square(self.plan.b) * squares
        if self.has_gauge:
            diagonal += jnp.square(self.column) / jnp.sum(self.column)
        # Rounding may leave nothing of the difference where one pair has all of a point's mass.
        least = jnp.sqrt(jnp.finfo(diagonal.dtype).eps) * self.column
        alive = self.column > 0
        return jnp.where(alive, 1 / jnp.where(alive, jnp.maximum(diagonal, least), 1), 0)


class _CG(eqx.Module):
    x: Float[Array, " m"]
    residual: Float[Array, " m"]
    direction: Float[Array, " m"]
    size: Float[Array, ""]  # of the residual, squared, in the preconditioner's norm
    energy: Float[Array, ""]  # what the quadratic has lost so far
    stuck: Bool[Array, ""]
    step: Int[Array, ""]


def conjugate_gradients(
    mv: Callable[[Float[Array, " m"]], Float[Array, " m"]],
    rhs: Float[Array, " m"],
    preconditioner: Float[Array, " m"],
    *,
    tolerance: Float[Array, ""],
    max_steps: int,
    radius: Float[Array, ""] | float = jnp.inf,
) -> Float[Array, " m"]:
    """Solves `mv(x) = rhs` from `x = 0`; `preconditioner` is a diagonal.

    Stops when the residual has shrunk by `tolerance` in the preconditioner's norm or, since
    rounding leaves float32 a floor, when a step no longer lowers the quadratic that is minimised,
    or where a tenth of the entries of `x` leave the trust region of size `radius` (after Steihaug
    1983, who stops at the first: there are always some points that hardly touch the others).
    Entries beyond it are returned at its edge. Each iterate is better than the last, so that
    wherever it stops the result is of use.
    """
    alive = (preconditioner > 0).astype(rhs.dtype)
    most_outside = 0.1 * jnp.sum(alive)

    def unfinished(state: _CG) -> Bool[Array, ""]:
        return ~state.stuck & (state.size > tolerance**2 * initial) & (state.step < max_steps)

    def body(state: _CG) -> _CG:
        image = mv(state.direction)
        curvature = jnp.sum(state.direction * image)
        length = state.size / jnp.where(curvature > 0, curvature, 1)
        residual = state.residual - length * image
        size = jnp.sum(residual * preconditioner * residual)
        gain = length * state.size
        stuck = ~(curvature > 0) | ~(gain > eps * state.energy) | ~jnp.isfinite(size)
        x = state.x + length * state.direction
        outside = jnp.sum(jnp.where(jnp.abs(x) > radius, alive, 0)) > most_outside
        return _CG(
            x=jnp.where(stuck, state.x, x),
            residual=residual,
            direction=preconditioner * residual + size / state.size * state.direction,
            size=size,
            energy=state.energy + gain,
            stuck=stuck | outside,
            step=state.step + 1,
        )

    eps = jnp.finfo(rhs.dtype).eps ** 2
    # Squares of numbers near 1 neither over- nor underflow.
    size = jnp.max(jnp.abs(rhs))
    size = jnp.where(size > 0, size, 1)
    rhs, radius = rhs / size, radius / size
    initial = jnp.sum(rhs * preconditioner * rhs)
    start = _CG(
        x=jnp.zeros_like(rhs),
        residual=rhs,
        direction=preconditioner * rhs,
        size=initial,
        energy=jnp.zeros_like(initial),
        stuck=jnp.array(False),
        step=jnp.zeros((), jnp.int32),
    )
    return size * jnp.clip(while_loop(unfinished, body, start).x, -radius, radius)
