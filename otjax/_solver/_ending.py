"""Why the iteration with one plan ends, and what follows: the loop's table of transitions."""

import enum
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._results import RESULTS


class Ending(enum.IntEnum):
    """Why a round, the iteration with one absorbed plan, ended."""

    CONFIRMED = 0  # the error, made afresh from the potentials, is below the tolerance
    REACHED = 1  # the error that the iteration sees is below the tolerance
    DRIFTED = 2  # the potentials are as far from those of the plan as it carries
    CIRCLING = 3  # no progress for long, where rounding allows some
    STALLED = 4  # no progress for a while, at what rounding allows
    EXHAUSTED = 5  # no steps are left, at this epsilon
    OUT_OF_RANGE = 6  # sums of the plan over- or underflow
    NOT_FINITE = 7  # a log-sum-exp is not a finite number
    UNFIT = 8  # the step is not one for this problem


Flag: TypeAlias = bool | Bool[Array, ""]


class Move(NamedTuple):
    """What follows a round."""

    lower: Flag = False  # to the next epsilon
    jump: Flag = False  # to the problem's own epsilon at once
    at_rest: Flag = False  # from where the acceleration rests, not from the least error
    anew: Flag = False  # with an empty history
    by_log: Flag = False  # by a log-sum-exp
    look: Flag = False  # makes the error afresh, and ends
    end: Flag = False  # ends


# For each ending, what follows before the last epsilon, and at it.
TRANSITIONS: dict[Ending, tuple[Move, Move]] = {
    Ending.CONFIRMED: (Move(lower=True, anew=True), Move(end=True)),
    Ending.REACHED: (Move(lower=True, anew=True), Move()),
    Ending.DRIFTED: (Move(at_rest=True), Move(at_rest=True)),
    Ending.CIRCLING: (Move(at_rest=True, anew=True), Move(at_rest=True, anew=True)),
    Ending.STALLED: (Move(lower=True, anew=True), Move(look=True)),
    Ending.EXHAUSTED: (Move(jump=True, anew=True, by_log=True), Move(look=True)),
    Ending.OUT_OF_RANGE: (Move(anew=True, by_log=True), Move(anew=True, by_log=True)),
    Ending.NOT_FINITE: (Move(end=True), Move(end=True)),
    Ending.UNFIT: (Move(end=True), Move(end=True)),
}


def move_after(ending: Int[Array, ""], at_end: Bool[Array, ""]) -> Move:
    """The row of the table, with traced entries."""

    def bits(column: int, row: int) -> int:
        return sum(int(TRANSITIONS[one][row][column]) << one for one in Ending)

    columns = (
        jnp.where(at_end, bits(column, 1), bits(column, 0)) for column in range(len(Move._fields))
    )
    return Move(*((one >> ending) & 1 == 1 for one in columns))


def verdict(ending: Int[Array, ""], resolved: Bool[Array, ""]) -> RESULTS:
    """The result of a solve that ends with this round."""
    result = RESULTS.max_steps_reached
    for reason, member in (
        (Ending.STALLED, RESULTS.stagnated),
        (Ending.CONFIRMED, RESULTS.successful),
    ):
        result = RESULTS.where(ending == reason, member, result)
    result = RESULTS.where(resolved, result, RESULTS.unresolved_epsilon)
    result = RESULTS.where(ending == Ending.NOT_FINITE, RESULTS.nonfinite, result)
    return RESULTS.where(ending == Ending.UNFIT, RESULTS.not_symmetric, result)
