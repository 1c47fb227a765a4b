"""Points whose matrix of costs is held."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractGeometry, AbstractPlan, AbstractSpatialGeometry, Coarse, Prepared


class HeldCloud(AbstractSpatialGeometry):
    """A point cloud with the matrix of its costs, of which all but cells is made."""

    cloud: AbstractSpatialGeometry
    held: AbstractGeometry

    @property
    def shape(self) -> tuple[int, int]:
        return self.held.shape

    @property
    def dtype(self) -> jnp.dtype:
        return self.held.dtype

    @property
    def T(self) -> "HeldCloud":
        return HeldCloud(self.cloud.T, self.held.T)

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        prepared = self.held.prepare(a, b)
        return prepared._replace(geometry=HeldCloud(self.cloud, prepared.geometry))

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
        return self.cloud.coarsened(a, b, cells)
