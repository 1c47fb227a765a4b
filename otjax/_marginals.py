r"""How the marginals of a plan are tied to the given masses, one object for each side.

A constraint is known by $D(f) = -\phi^*(-f)$, its term in the dual (Séjourné et al. 2019,
arXiv:1910.12958, section 2), whose gradient is the marginal that the potential asks for.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ._arrays import float_scalar, inner
from ._unit import over


class AbstractMarginal(eqx.Module):
    """The constraint or penalty that ties one marginal of the plan to the given masses."""

    @abc.abstractmethod
    def dual(self, f: Float[Array, " n"], a: Float[Array, " n"]) -> Float[Array, ""]:
        """This side's term of the dual objective."""

    @abc.abstractmethod
    def share(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        """The marginal that the potential `f` asks for, the gradient of `dual`, as a share of the
        given masses."""

    @abc.abstractmethod
    def damping(self, epsilon: Float[Array, ""]) -> Float[Array, ""]:
        r"""The factor $\lambda$ of a half-step $f = \lambda \, \mathrm{softmin}(g)$."""

    @abc.abstractmethod
    def softness(self) -> Float[Array, ""]:
        r"""How the mass that is asked for falls when the potential rises by a constant: `share` is
        multiplied by $e^{-c \cdot \mathrm{softness}}$. 0 where the marginal is fixed."""

    @abc.abstractmethod
    def prepare(self) -> tuple["AbstractMarginal", Bool[Array, ""]]:
        """The same with valid numbers, and whether they were."""


class Balanced(AbstractMarginal):
    """The marginal equals the given masses."""

    def dual(self, f: Float[Array, " n"], a: Float[Array, " n"]) -> Float[Array, ""]:
        return inner(a, f)

    def share(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.ones_like(f)

    def damping(self, epsilon: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.ones_like(epsilon)

    def softness(self) -> Float[Array, ""]:
        return jnp.zeros((), jnp.result_type(float))

    def prepare(self) -> tuple["Balanced", Bool[Array, ""]]:
        return self, jnp.array(True)


class Unbalanced(AbstractMarginal):
    r"""The marginal $P1$ is penalised by $\rho\,\mathrm{KL}(P1 | a)$, the KL of measures:
    $\mathrm{KL}(p | q) = \sum_i p_i \log(p_i / q_i) - p_i + q_i$."""

    rho: Float[Array, ""]

    def __init__(self, rho: ArrayLike):
        """**Arguments:**

        - `rho`: the price of a unit of KL, positive, in the unit of the cost. May be traced. Where
            it is known to be infinite, the problem is that of `Balanced()`.

        **Raises:** `ValueError` if `rho` is not one number; a value that is not positive is
        reported by the solve, as `RESULTS.invalid_rho`.
        """
        self.rho = float_scalar(rho, "rho", jnp.result_type(float))

    def dual(self, f: Float[Array, " n"], a: Float[Array, " n"]) -> Float[Array, ""]:
        rho = self.rho.astype(f.dtype)
        return -rho * inner(a, jnp.expm1(-over(f, rho)))

    def share(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.exp(-over(f, self.rho.astype(f.dtype)))

    def damping(self, epsilon: Float[Array, ""]) -> Float[Array, ""]:
        return 1 / (1 + epsilon / self.rho.astype(epsilon.dtype))

    def softness(self) -> Float[Array, ""]:
        return 1 / self.rho

    def prepare(self) -> tuple["Unbalanced", Bool[Array, ""]]:
        valid = jnp.isfinite(self.rho) & (self.rho > 0)
        return Unbalanced(jnp.where(valid, self.rho, 1)), valid


class _InUnits(AbstractMarginal):
    """Any constraint, with potentials and epsilon in another unit."""

    side: AbstractMarginal
    unit: Float[Array, ""]

    def dual(self, f: Float[Array, " n"], a: Float[Array, " n"]) -> Float[Array, ""]:
        return self.side.dual(self.unit * f, a) / self.unit

    def share(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        return self.side.share(self.unit * f)

    def damping(self, epsilon: Float[Array, ""]) -> Float[Array, ""]:
        return self.side.damping(self.unit * epsilon)

    def softness(self) -> Float[Array, ""]:
        softness = self.side.softness()
        return softness * self.unit.astype(softness.dtype)

    def prepare(self) -> tuple["_InUnits", Bool[Array, ""]]:
        side, valid = self.side.prepare()
        return _InUnits(side, self.unit), valid


def in_units(side: AbstractMarginal, unit: Float[Array, ""]) -> AbstractMarginal:
    """A constraint of valid numbers, with what it costs divided by `unit`."""
    if isinstance(side, Balanced):
        return side
    if isinstance(side, Unbalanced):
        # A penalty without bound in that unit would not be a number in all formulas.
        largest = jnp.finfo(side.rho.dtype).max / 16
        return Unbalanced(jnp.minimum(side.rho / unit.astype(side.rho.dtype), largest))
    return _InUnits(side, unit)
