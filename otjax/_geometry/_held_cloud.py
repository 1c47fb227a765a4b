"""Points whose matrix of costs is held."""

from jaxtyping import Array, Float

from ._base import AbstractSpatialGeometry, Coarse, Prepared
from ._cost_matrix import CostMatrix, matrix_of


class HeldCloud(CostMatrix, AbstractSpatialGeometry):
    """The matrix of costs between points, which still knows the points, for cells of them."""

    cloud: AbstractSpatialGeometry

    def __init__(self, matrix: Float[Array, "n m"], cloud: AbstractSpatialGeometry):
        self.matrix = matrix
        self.cloud = cloud

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        prepared = CostMatrix.prepare(self, a, b)
        return prepared._replace(geometry=HeldCloud(matrix_of(prepared), self.cloud))

    def coarsened(self, a: Float[Array, " n"], b: Float[Array, " m"], cells: int) -> Coarse:
        return self.cloud.coarsened(a, b, cells)
