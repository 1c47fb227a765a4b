"""Linear operators of transport, in lineax's sense: plans that need not exist as a matrix."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ._geometry import AbstractPlan


Operator = TypeVar("Operator", bound=type[lx.AbstractLinearOperator])


def register(operator: Operator) -> Operator:
    """Answers lineax's questions about a real operator of which no structure is known."""
    for has_structure in (
        lx.is_symmetric, lx.is_diagonal, lx.is_tridiagonal, lx.has_unit_diagonal,
        lx.is_lower_triangular, lx.is_upper_triangular, lx.is_positive_semidefinite,
        lx.is_negative_semidefinite,
    ):  # fmt: skip
        has_structure.register(operator)(lambda _: False)
    for same in (lx.linearise, lx.conj):
        same.register(operator)(lambda op: op)
    lx.materialise.register(operator)(lambda op: lx.MatrixLinearOperator(op.as_matrix()))
    lx.diagonal.register(operator)(lambda op: jnp.diagonal(op.as_matrix()))
    lx.tridiagonal.register(operator)(
        lambda op: lx.tridiagonal(lx.MatrixLinearOperator(op.as_matrix()))
    )
    return operator


@register
class TransportPlan(lx.AbstractLinearOperator):
    r"""The coupling $P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \epsilon)$, n x m.

    A lineax operator: `mv(v)` is $P v$, `.T` its transpose; `as_matrix()` alone forms the matrix.
    """

    density: AbstractPlan
    a: Float[Array, " n"]
    b: Float[Array, " m"]

    def mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        return self.a * self.density.mv(self.b * vector)

    def as_matrix(self) -> Float[Array, "n m"]:
        return self.a[:, None] * self.density.as_matrix() * self.b[None, :]

    def transpose(self) -> "TransportPlan":
        return TransportPlan(self.density.T, self.b, self.a)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.b.shape, self.b.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.a.shape, self.a.dtype)


@register
class RankOne(lx.AbstractLinearOperator):
    """The product of two vectors, as a matrix of n x m."""

    left: Float[Array, " n"]
    right: Float[Array, " m"]

    def mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        return self.left * jnp.sum(self.right * vector)

    def as_matrix(self) -> Float[Array, "n m"]:
        return self.left[:, None] * self.right[None, :]

    def transpose(self) -> "RankOne":
        return RankOne(self.right, self.left)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.right.shape, self.right.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.left.shape, self.left.dtype)
