"""Bounds of the unregularised cost that close in: by falling epsilon, or by a vertex."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._certificate import feasible_potentials, relative_gap, RoundedPlan
from ._dual import marginal_error
from ._problem import PreparedProblem
from ._solver import AbstractSolver, Adaptive, NoAnnealing, Sinkhorn
from ._vertex import cheapest_vertex, empty_vertex, known_costs, Vertex


# Epsilon starts at so many times the gap, within limits, as a fraction of the mean cost; that is
# enough where transport costs about as much as chance. Each stage then multiplies it by what the
# gap left suggests, within limits.
_PER_GAP, _LEAST_START, _LARGEST_START = 5, 5e-4, 0.02
_SLOWEST, _FASTEST = 0.5, 0.05
# Where a vertex may follow, neither epsilon nor the tolerance is lower than this: from there the
# search is faster.
_LEAST_BEFORE_VERTEX, _TOLERANCE_BEFORE_VERTEX = 5e-3, 1e-3
# Nothing is proven on the way to the first epsilon: a marginal error as of annealing will do.
_ROUGH = 0.05


class Stage(eqx.Module):
    """The state between two epsilons: the current potentials, and the best bounds so far."""

    epsilon: Float[Array, ""]
    current: tuple[Float[Array, " n"], Float[Array, " m"]] | None  # `None` before the first
    primal: tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, ""]]  # f, g, epsilon
    dual: tuple[Float[Array, " n"], Float[Array, " m"]]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    steps: Int[Array, ""]
    error: Float[Array, ""]
    stages: Int[Array, ""]
    stuck: Bool[Array, ""]


class Options(eqx.Module):
    """How a solve goes: `None` for a gap is zero, and for a solver the default."""

    gap: Float[Array, ""] | None
    solver: AbstractSolver | None
    max_stages: Int[Array, ""]
    uniform: bool = eqx.field(static=True)


def narrow(
    problem: PreparedProblem, options: Options
) -> tuple[Stage, Vertex | None, Bool[Array, ""], Bool[Array, ""]]:
    """Bounds that meet, if it can be done: by entropic problems, then by a vertex. Also says
    whether they do, and whether a vertex was looked for."""
    gap = jnp.zeros_like(problem.mean) if options.gap is None else options.gap
    costs = known_costs(problem.geometry, at_any_size=options.gap is None)
    scale = jnp.where(problem.spread > 0, problem.spread, 1)
    # Bounds that differ by rounding alone meet.
    size = jnp.maximum(jnp.abs(problem.mean), scale)
    noise = 64 * jnp.finfo(scale.dtype).eps * size * jnp.sum(problem.a)

    def reached(state: Stage) -> Bool[Array, ""]:
        return (relative_gap(state.lower, state.upper) <= gap) | (state.upper - state.lower < noise)

    def unfinished(state: Stage) -> Bool[Array, ""]:
        return ~reached(state) & ~state.stuck & (state.stages < options.max_stages)

    if costs is None:
        least = _LEAST_START
        default = Adaptive(tolerance=0.1 * gap, annealing=NoAnnealing())
    else:
        least = _LEAST_BEFORE_VERTEX
        default = Sinkhorn(tolerance=jnp.maximum(0.1 * gap, _TOLERANCE_BEFORE_VERTEX))
    solver = default if options.solver is None else options.solver
    epsilon = jnp.clip(_PER_GAP * gap, least, _LARGEST_START) * scale
    zeros = jnp.zeros_like(problem.a), jnp.zeros_like(problem.b)
    start = Stage(
        epsilon=epsilon,
        current=None,
        primal=(*zeros, epsilon),
        dual=zeros,
        lower=jnp.full_like(scale, -jnp.inf),
        upper=jnp.full_like(scale, jnp.inf),
        steps=jnp.zeros((), jnp.int32),
        error=jnp.full_like(scale, 2),
        stages=jnp.zeros((), jnp.int32),
        stuck=jnp.array(False),
    )
    if costs is None or options.gap is None:
        # Nothing is proven on the way to the first epsilon, nor before a vertex.
        rough = Sinkhorn(tolerance=_ROUGH).run(problem.at(epsilon), None, None)
        potentials = rough.f, rough.g
        found = potentials, (*potentials, epsilon), potentials, rough.num_steps
        start = eqx.tree_at(
            lambda stage: (stage.current, stage.primal, stage.dual, stage.steps),
            start,
            found,
            is_leaf=lambda leaf: leaf is None,
        )
    if options.gap is None:
        end = start
    elif costs is None:
        lower_epsilon = lambda state: _lower_epsilon(problem, solver, gap, state)
        end = lax.while_loop(unfinished, lower_epsilon, start)
    else:
        end = _lower_epsilon(problem, solver, gap, start)
    if costs is None:
        return end, None, reached(end), jnp.array(False)

    assert end.current is not None  # one problem was solved
    g = end.current[1]

    def search() -> Vertex:
        return cheapest_vertex(problem, costs, g, options.uniform)

    if options.gap is None:
        needed, vertex = jnp.array(True), search()
    else:
        needed = ~reached(end) & (end.stages < options.max_stages)
        empty = lambda: empty_vertex(problem, costs, options.uniform)
        vertex = lax.cond(needed, search, empty)
    choose = lambda new, old: jnp.where(needed, new, old)
    end = Stage(
        epsilon=end.epsilon,
        current=end.current,
        primal=end.primal,
        dual=jax.tree.map(choose, vertex.potentials, end.dual),
        lower=choose(vertex.lower, end.lower),
        upper=choose(vertex.upper, end.upper),
        steps=end.steps + vertex.visits,
        error=end.error,
        stages=end.stages + needed.astype(jnp.int32),
        stuck=needed,
    )
    return end, vertex, reached(end), needed


def _lower_epsilon(
    problem: PreparedProblem, solver: AbstractSolver, gap: Float[Array, ""], state: Stage
) -> Stage:
    """Solves at one epsilon, certifies, and chooses the next."""
    outcome = solver.run(problem.at(state.epsilon), state.current, None)
    current = problem.at(outcome.epsilon)
    rounded = RoundedPlan(current, outcome.f, outcome.g)
    upper = rounded.cost()
    f, g = feasible_potentials(current, outcome.g)
    lower = jnp.sum(problem.a * f) + jnp.sum(problem.b * g)
    cheaper, higher = upper < state.upper, lower > state.lower
    new_primal = (outcome.f, outcome.g, outcome.epsilon)
    choose = lambda condition, new, old: jax.tree.map(
        lambda ours, theirs: jnp.where(condition, ours, theirs), new, old
    )
    upper, lower = jnp.where(cheaper, upper, state.upper), jnp.where(higher, lower, state.lower)
    ratio = gap / relative_gap(lower, upper)
    return Stage(
        epsilon=state.epsilon * jnp.clip(0.7 * ratio, _FASTEST, _SLOWEST),
        current=(outcome.f, outcome.g),
        primal=choose(cheaper, new_primal, state.primal),
        dual=choose(higher, (f, g), state.dual),
        lower=lower,
        upper=upper,
        steps=state.steps + outcome.num_steps,
        error=marginal_error(current, outcome.f, outcome.g, outcome.marginals),
        stages=state.stages + 1,
        # Neither bound moves once rounding decides.
        stuck=~(cheaper | higher),
    )
