"""What a solver sees of the supports and their cost."""

import abc

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float


class AbstractGeometry(eqx.Module):
    """Two supports and the cost $C$ between them, n x m.

    Solvers use `softmin` and `plan` and nothing else; the other direction is `geometry.T`.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers n and m of points."""

    @property
    @abc.abstractmethod
    def dtype(self) -> jnp.dtype:
        """float32 or float64."""

    @abc.abstractmethod
    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        r"""For each row $i$, $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""

    @abc.abstractmethod
    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> lx.AbstractLinearOperator:
        r"""The operator $\exp((f_i + g_j - C_{ij}) / \epsilon)$, n x m, on vectors of `dtype`.

        `None` is the geometry's own dtype; the exponents are made in that in any case.
        """

    @abc.abstractmethod
    def mean_cost(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
        r"""$\sum_{ij} a_i b_j C_{ij}$ over the total masses of `a` and `b`."""

    @abc.abstractmethod
    def prepare(
        self, a: Float[Array, " n"], b: Float[Array, " m"]
    ) -> tuple["AbstractGeometry", Bool[Array, ""]]:
        """The geometry that a solver works on, and whether its numbers are finite.

        What belongs to points of mass zero, and what is not a number, is replaced by what belongs
        to others or by zero, with derivatives zero. What is used again and again is computed once,
        if it fits in memory.
        """

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractGeometry":
        """The same geometry with the two sides exchanged."""
