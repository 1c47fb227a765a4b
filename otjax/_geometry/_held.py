"""A geometry whose matrix of costs is held, and which still knows where its points are."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractGeometry, AbstractPlan, AbstractSpatialGeometry, Coarse, Prepared


class Held(AbstractSpatialGeometry):
    """The matrix of costs of points whose places are known: cells are made of the places, all else
    of the matrix."""

    places: AbstractSpatialGeometry
    held: AbstractGeometry

    @property
    def shape(self) -> tuple[int, int]:
        return self.held.shape

    @property
    def dtype(self) -> jnp.dtype:
        return self.held.dtype

    @property
    def T(self) -> "Held":
        return Held(self.places.T, self.held.T)

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        prepared = self.held.prepare(a, b)
        return prepared._replace(geometry=Held(self.places, prepared.geometry))

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        return self.held.softmin(h, epsilon)

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> AbstractPlan:
        return self.held.plan(f, g, epsilon, dtype)

    def coarsened(self, a: Float[Array, " n"], b: Float[Array, " m"], cells: int) -> Coarse:
        return self.places.coarsened(a, b, cells)
