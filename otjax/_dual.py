r"""The formulas of the dual, each once: Peyré and Cuturi (2019, arXiv:1803.00567, section 4.4),
Séjourné et al. (2019, arXiv:1910.12958) for unbalanced measures.

$$\max_{f, g} D_a(f) + D_b(g) - \epsilon \sum_{ij} a_i b_j (K_{ij} - 1), \qquad
  K_{ij} = \exp((f_i + g_j - C_{ij}) / \epsilon), \quad P_{ij} = a_i b_j K_{ij}.$$
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arrays import inner
from ._control import cond_any
from ._operators import TransportPlan
from ._problem import PreparedProblem


def transport_plan(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> TransportPlan:
    """The plan of a pair of potentials."""
    density = problem.geometry.plan(f, g, problem.epsilon)
    return TransportPlan(density, problem.a, problem.b)


def dual_value(
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    excess: Float[Array, ""],
) -> Float[Array, ""]:
    """The dual objective, given what the mass of the plan of `f` and `g` is above that of the
    product of the masses."""
    side_a, side_b = problem.marginals
    return side_a.dual(f, problem.a) + side_b.dual(g, problem.b) - problem.epsilon * excess


def product_mass(problem: PreparedProblem) -> Float[Array, ""]:
    r"""The mass of $a \otimes b$."""
    return jnp.sum(problem.a) * jnp.sum(problem.b)


def excess_mass(
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    plan_mass: Float[Array, ""],
) -> Float[Array, ""]:
    r"""The mass of the plan of `f` and `g` above that of the product,
    $\sum_{ij} a_i b_j (e^{s_{ij}} - 1)$ with $s_{ij} = (f_i + g_j - C_{ij}) / \epsilon$.

    Where `epsilon` is far beyond the costs it is less than what the two masses are rounded by, and
    matters, as it is multiplied by `epsilon`.
    """
    eps = jnp.finfo(plan_mass.dtype).eps
    product = product_mass(problem)
    difference = plan_mass - product
    if plan_mass.dtype == jnp.float64:
        # Rounding is that small, and a branch less is to be compiled.
        return difference

    def midpoint() -> Float[Array, ""]:
        # e^s - 1 is the integral of s e^(ts) over t in [0, 1]; s is small. Not if pairs are
        # forbidden, but then the difference is more than rounding.
        integral = 2 * exponents(problem.at(2 * problem.epsilon), f, g)
        near = jnp.abs(difference - integral) <= 16 * eps * product
        return jnp.where(near, integral, difference)

    mean = lambda masses, potential: inner(masses, jnp.abs(potential)) / jnp.sum(masses)
    size = mean(problem.a, f) + mean(problem.b, g)
    return cond_any(problem.epsilon > 64 * size, midpoint, lambda: difference)


def left_out(problem: PreparedProblem) -> Float[Array, ""]:
    r"""The price of the points that have no partner: all of their mass vanishes. The objective at
    $P_{ij} = 0$ is $\rho a_i + \epsilon \sum_j a_i b_j$."""
    lost_a, lost_b = problem.lost
    softness = tuple(side.softness().astype(lost_a.dtype) for side in problem.marginals)
    price = jnp.zeros_like(lost_a)
    for lost, soft in zip(problem.lost, softness, strict=True):
        # Where the marginal is fixed there is no such plan, and no price.
        price += jnp.where(soft > 0, lost / jnp.where(soft > 0, soft, 1), 0)
    alone = lost_a * lost_b + lost_a * jnp.sum(problem.b) + jnp.sum(problem.a) * lost_b
    return price + problem.epsilon * alone


def exponents(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> Float[Array, ""]:
    r"""The sum of the exponents $(f_i + g_j - C_{ij}) / \epsilon$ under the plan."""

    # As log P is affine in 1 / epsilon, it is a derivative of the plan's mass.
    def mass(log_ratio: Float[Array, ""]) -> Float[Array, ""]:
        plan = transport_plan(problem.at(problem.epsilon * jnp.exp(-log_ratio)), f, g)
        return jnp.sum(plan.mv(jnp.ones_like(g)))

    zero = jnp.zeros_like(problem.epsilon)
    return jax.jvp(mass, (zero,), (jnp.ones_like(zero),))[1]


def linear_cost(
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    offset: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    r"""The transport cost $\langle P, C \rangle$ of the plan of `f` and `g`, or what it is above a
    constant `offset` of all costs."""
    plan = transport_plan(problem, f, g)
    row_offset = 0.5 * jnp.asarray(offset, f.dtype)
    row, column = plan.mv(jnp.ones_like(g)), plan.T.mv(jnp.ones_like(f))
    above = inner(row, f - row_offset) + inner(column, g - row_offset)
    return above - problem.epsilon * exponents(problem, f, g)


def mean_cost(
    problem: PreparedProblem, a: Float[Array, " n"], b: Float[Array, " m"]
) -> Float[Array, ""]:
    r"""The cost of the product of `a` and `b`, $\sum_{ij} a_i b_j C_{ij}$, of allowed pairs."""
    # At an epsilon beyond all costs but that of forbidden pairs every entry of the plan is 1, and
    # the derivative of its mass is the cost.
    eps = jnp.finfo(a.dtype).eps
    huge = jnp.abs(problem.mean) / eps + jnp.sqrt(jnp.finfo(a.dtype).tiny)
    free = eqx.tree_at(lambda p: (p.a, p.b, p.epsilon), problem, (a, b, huge))
    return linear_cost(free, jnp.zeros_like(a), jnp.zeros_like(b))


def marginal_error(
    problem: PreparedProblem,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]],
) -> Float[Array, ""]:
    """The L1 errors of the plan's two marginals together, relative to the mass asked for."""
    (side_a, side_b), (row, column) = problem.marginals, marginals
    target_a, target_b = problem.a * side_a.share(f), problem.b * side_b.share(g)
    ones_a, ones_b = jnp.ones_like(f), jnp.ones_like(g)
    error = inner(jnp.abs(row - target_a), ones_a) + inner(jnp.abs(column - target_b), ones_b)
    target_mass = 0.5 * (inner(target_a, ones_a) + inner(target_b, ones_b))
    return error / total_mass(problem, target_mass)


def total_mass(problem: PreparedProblem, target_mass: Float[Array, ""]) -> Float[Array, ""]:
    """What errors are relative to: the mass asked for, or the least that is worth moving."""
    given = 0.5 * (jnp.sum(problem.a) + jnp.sum(problem.b))
    return jnp.maximum(target_mass, jnp.finfo(given.dtype).eps * given)


def translation(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> Float[Array, ""]:
    r"""The constant $c$ that is best for $(f + c, g - c)$, which have the same plan (Séjourné,
    Vialard and Peyré 2022, arXiv:2201.00730). Where the dual leaves it open, the one that gives
    both sides one mean: the limit of ever harder penalties.

    A step of Sinkhorn moves $c$ by a share of about $\epsilon / \rho$ of what is missing only.
    """
    a, b = problem.a, problem.b
    if problem.has_gauge:
        return (inner(b, g) - inner(a, f)) / (jnp.sum(a) + jnp.sum(b))
    softness = tuple(side.softness().astype(f.dtype) for side in problem.marginals)
    mass_a, mass_b = jnp.sum(a), jnp.sum(b)
    # Totals that differ by rounding alone are equal, or rounding would decide what hard penalties
    # make of it.
    ratio = mass_a / mass_b
    equal = jnp.abs(ratio - 1) <= 32 * jnp.finfo(ratio.dtype).eps
    asked_a = _log_mean_exp(-softness[0] * f, a / mass_a)
    asked_b = _log_mean_exp(-softness[1] * g, b / mass_b)
    return (jnp.where(equal, 0, jnp.log(ratio)) + asked_a - asked_b) / sum(softness)


def _log_mean_exp(exponents: Float[Array, " n"], weights: Float[Array, " n"]) -> Float[Array, ""]:
    r"""$\log \sum_i w_i e^{x_i}$ for weights of sum 1: of hard penalties, whose exponents are next
    to zero, and of soft ones, whose exponentials over- and underflow."""
    there = weights > 0
    exponents = jnp.where(there, exponents, 0)
    near = jnp.clip(exponents, -1, 1)
    small = jnp.log1p(inner(weights, jnp.expm1(near)))
    logs = exponents + jnp.log(jnp.where(there, weights, 1))
    large = jax.nn.logsumexp(jnp.where(there, logs, -jnp.inf))
    return jnp.where(jnp.all(near == exponents), small, large)


def centre(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The same potentials with the best constant."""
    shift = translation(problem, f, g)
    return f + shift, g - shift
