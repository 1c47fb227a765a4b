"""A fixed point $x = T(x)$, by Anderson's extrapolation, at falling epsilons."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._solver._history import Stacked
from .._varying import while_loop


_MEMORY = 5
_STAGE_ERROR = 0.05  # at which an intermediate epsilon is left
_FACTOR = 0.3  # what epsilon is multiplied by


class Step(NamedTuple):
    """What one evaluation of the map tells.

    - `image`: where it takes the point.
    - `warm`: what a next evaluation may start from.
    - `error`: how far the point is from a fixed point, relative.
    - `weights`: of the entries of the point, for the norm of residuals.
    """

    image: Float[Array, " size"]
    warm: PyTree
    error: Float[Array, ""]
    weights: Float[Array, " size"]


class FixedPoint(eqx.Module):
    """The point of least error, and how the search for it went."""

    point: Float[Array, " size"]
    warm: PyTree
    error: Float[Array, ""]
    num_steps: Int[Array, ""]
    stalled: Bool[Array, ""]


class _State(eqx.Module):
    point: Float[Array, " size"]
    warm: PyTree
    best: Float[Array, " size"]  # the point of least error at this epsilon
    best_warm: PyTree
    error: Float[Array, ""]  # its error
    image: Float[Array, " size"]  # of the point of least error since the memory was empty
    reference: Float[Array, ""]  # its error
    milestone: Float[Array, ""]
    history: Stacked
    epsilon: Float[Array, ""]
    since_progress: Int[Array, ""]
    num_steps: Int[Array, ""]


def fixed_point(
    step: Callable[[Float[Array, " size"], PyTree, Float[Array, ""]], Step],
    point: Float[Array, " size"],
    warm: PyTree,
    *,
    first_epsilon: Float[Array, ""],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
    patience: int = 100,
) -> FixedPoint:
    """Iterates `step(point, warm, epsilon)` from `first_epsilon` down to `epsilon`, and gives up
    after `patience` steps without progress.

    An extrapolation whose error is more than twice the least one is refused: the iteration then
    goes on from the best image, with an empty memory, and is measured anew, for the plain
    iteration may have to go uphill.
    """
    infinite = jnp.full_like(tolerance, jnp.inf)
    zero = jnp.zeros((), jnp.int32)
    start = _State(
        point, warm, point, warm, infinite, point, infinite, infinite,
        Stacked.empty(_MEMORY, point), jnp.maximum(first_epsilon, epsilon), zero, zero,
    )  # fmt: skip

    def unfinished(state: _State) -> Bool[Array, ""]:
        going = (state.error > tolerance) & (state.since_progress < patience)
        return (going | (state.epsilon > epsilon)) & (state.num_steps < max_steps)

    def body(state: _State) -> _State:
        at_end = state.epsilon <= epsilon
        made = step(state.point, state.warm, state.epsilon)
        better = made.error <= state.error
        choose = lambda new, old: jax.tree.map(lambda u, v: jnp.where(better, u, v), new, old)
        best = choose(state.point, state.best)
        error = jnp.fmin(made.error, state.error)
        refused = ~(made.error <= 2 * state.reference)
        image = jnp.where(made.error <= state.reference, made.image, state.image)
        reference = jnp.where(refused, jnp.inf, jnp.fmin(made.error, state.reference))
        residual = (made.image - state.point) * jnp.sqrt(made.weights)
        history = state.history.extended(made.image, residual, refused)
        following = jnp.where(refused, image, history.combination())
        progress = made.error < 0.9 * state.milestone
        # The last steps belong to the epsilon that was asked for.
        hurry = 2 * state.num_steps + 2 >= max_steps
        leave = ~at_end & ((error <= jnp.maximum(_STAGE_ERROR, tolerance)) | hurry)
        lower = jnp.where(hurry, epsilon, jnp.maximum(epsilon, _FACTOR * state.epsilon))
        return _State(
            point=jnp.where(leave, image, following),
            warm=made.warm,
            best=jnp.where(leave, image, best),
            best_warm=choose(made.warm, state.best_warm),
            error=jnp.where(leave, infinite, error),
            image=image,
            reference=jnp.where(leave, infinite, reference),
            milestone=jnp.where(leave, infinite, jnp.where(progress, made.error, state.milestone)),
            history=history.begun_anew(leave),
            epsilon=jnp.where(leave, lower, state.epsilon),
            since_progress=jnp.where(progress | leave, 0, state.since_progress + 1),
            num_steps=state.num_steps + 1,
        )

    end = while_loop(unfinished, body, start)
    return FixedPoint(
        end.best, end.best_warm, end.error, end.num_steps, end.since_progress >= patience
    )
