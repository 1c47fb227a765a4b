r"""How the potentials of a solved problem get their derivatives.

An adjoint takes the potentials that a solver found, which carry no derivative, and returns the
same numbers as differentiable functions of the problem. It knows the optimality condition and no
solver: at the solution each potential is the half-step of the other,

$$f = \lambda_a \, \mathrm{softmin}_\epsilon(g + \epsilon \log b), \qquad
  g = \lambda_b \, \mathrm{softmin}_\epsilon(f + \epsilon \log a).$$
"""

import abc

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import optional_positive_number
from ._dual import dual_value, product_mass, transport_plan
from ._problem import PreparedProblem
from ._schur import conjugate_gradients, Schur
from ._varying import scan


class AbstractAdjoint(eqx.Module):
    """How the potentials are differentiated."""

    @abc.abstractmethod
    def attach(
        self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """The solution `f`, `g` of the prepared `problem`, differentiable in `problem`."""


def half_steps(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Each potential updated from the other, by one application of the plan at both."""
    density = problem.geometry.plan(f, g, problem.epsilon)
    row, column = density.mv(problem.b), density.T.mv(problem.a)
    side_a, side_b = problem.marginals
    return (
        side_a.damping(problem.epsilon) * (f - problem.epsilon * jnp.log(row)),
        side_b.damping(problem.epsilon) * (g - problem.epsilon * jnp.log(column)),
    )


class ImplicitAdjoint(AbstractAdjoint):
    """The implicit function theorem at the solution, in both modes and at every order.

    The linear system is solved matrix-free by preconditioned conjugate gradients; a derivative
    takes the memory of the forward pass, whatever the number of steps was.
    """

    tolerance: Float[Array, ""] | None
    max_steps: int = eqx.field(static=True)

    def __init__(self, *, tolerance: ArrayLike | None = None, max_steps: int = 2000):
        """**Arguments:**

        - `tolerance`: the relative residual of the linear system; `None` is 1e-6 in float32 and
            1e-12 in float64. The solve also stops where rounding allows no progress.
        - `max_steps`: the largest number of conjugate gradient steps.
        """
        self.tolerance = optional_positive_number(tolerance, "tolerance")
        if max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1, got {max_steps}.")
        self.max_steps = max_steps

    def attach(
        self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        return _implicit(problem, f, g, self)


@eqx.filter_custom_jvp
def _implicit(problem, f, g, adjoint):
    del problem, adjoint
    return f, g


@_implicit.def_jvp
def _implicit_jvp(primals, tangents):
    problem, f, g, adjoint = primals
    t_problem = tangents[0]
    # Through the rule itself, so that the derivative of what follows moves f and g as well.
    f, g = _implicit(problem, f, g, adjoint)
    _, moves = eqx.filter_jvp(lambda p: half_steps(p, f, g), (problem,), (t_problem,))
    # A half-step that does not depend on what is perturbed has no tangent.
    s_f, s_g = (
        jnp.zeros_like(potential) if move is None else move
        for potential, move in zip((f, g), moves, strict=True)
    )
    schur = Schur(problem, transport_plan(problem, f, g))
    tolerance = adjoint.tolerance
    if tolerance is None:
        tolerance = 1e-6 if f.dtype == jnp.float32 else 1e-12

    def solve(mv, rhs):
        return conjugate_gradients(
            mv,
            rhs,
            lax.stop_gradient(schur.inverse_diagonal()),
            tolerance=jnp.asarray(tolerance, rhs.dtype),
            max_steps=adjoint.max_steps,
        )

    # dg = s_g + B df and df = s_f + A dg, with A = `follow`, B its counterpart; eliminate df.
    rhs = schur.column * s_g / schur.dampings[1] - schur.plan.T.mv(s_f)
    dg = lax.custom_linear_solve(schur.mv, rhs, solve, symmetric=True)
    df = s_f + schur.follow(dg)
    column = schur.plan.density.T.mv(problem.a)
    follow_f = -schur.dampings[1] * schur.plan.density.T.mv(problem.a * df) / column
    # Points of mass zero take no part in the system; their potentials follow the others.
    dg = jnp.where(problem.b > 0, dg, s_g + follow_f)
    return (f, g), (df, dg)


class UnrolledAdjoint(AbstractAdjoint):
    """Differentiates through `num_steps` further Sinkhorn steps, begun at the solution.

    Memory grows with `num_steps`, and the error shrinks as Sinkhorn's own rate to their power:
    a reference for the implicit rule, which needs neither.
    """

    num_steps: int = eqx.field(static=True)

    def __init__(self, num_steps: int = 100):
        """**Arguments:**

        - `num_steps`: the number of steps to differentiate.
        """
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
        self.num_steps = num_steps

    def attach(
        self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        def step(potentials, _):
            f, g = potentials
            f, _ = half_steps(problem, f, g)
            _, g = half_steps(problem, f, g)
            return (f, g), None

        return scan(step, (f, g), length=self.num_steps)[0]


@eqx.filter_custom_jvp
def envelope(problem, f, g, excess):
    """The dual objective at its maximisers `f`, `g`, with the derivative that holds them fixed.

    The rule is written in terms of `f` and `g`: if these are differentiable functions of the
    problem, so is the gradient, and second derivatives are right.
    """
    return dual_value(problem, f, g, excess)


@envelope.def_jvp
def _envelope_jvp(primals, tangents):
    problem, f, g, excess = primals

    def objective(p):
        plan_mass = jnp.sum(transport_plan(p, f, g).mv(jnp.ones_like(g)))
        found = plan_mass - product_mass(p)
        # The number that is known best, with the derivatives of this one.
        return dual_value(p, f, g, excess + (found - lax.stop_gradient(found)))

    _, derivative = eqx.filter_jvp(objective, (problem,), (tangents[0],))
    return envelope(problem, f, g, excess), derivative
