"""Explicit Runge-Kutta methods, each by its table."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree


Table = tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]


class AbstractRungeKutta(eqx.Module):
    """A method with stages $k_l = f(t + c_l h, x + h \\sum_m a_{lm} k_m)$, whose step is
    $x + h \\sum_l b_l k_l$."""

    @property
    @abc.abstractmethod
    def table(self) -> Table:
        """The rows $a_l$, each of the length of its number, and the weights $b$."""


class Euler(AbstractRungeKutta):
    """Euler's method: order 1, one evaluation each step."""

    @property
    def table(self) -> Table:
        return ((),), (1.0,)


class Heun(AbstractRungeKutta):
    """Heun's method: order 2, two evaluations each step."""

    @property
    def table(self) -> Table:
        return ((), (1.0,)), (0.5, 0.5)


class RK4(AbstractRungeKutta):
    """The classical method of Runge and Kutta: order 4, four evaluations each step."""

    @property
    def table(self) -> Table:
        return ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)


def advance(
    method: AbstractRungeKutta,
    rate: Callable[[Float[Array, ""], PyTree], PyTree],
    t: Float[Array, ""],
    state: PyTree,
    step: Float[Array, ""],
) -> PyTree:
    """The state one step later."""

    def moved(weights: tuple[float, ...]) -> PyTree:
        total = state
        for weight, slope in zip(weights, slopes, strict=True):
            if weight != 0:
                share = step * weight
                total = jax.tree.map(lambda x, k, share=share: x + share * k, total, slope)
        return total

    rows, weights = method.table
    slopes: list[PyTree] = []
    for row in rows:
        slopes.append(rate(t + step * sum(row), moved(row)))
    return moved(weights)
