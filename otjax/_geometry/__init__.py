from ._base import (
    AbstractCloud as AbstractCloud,
    AbstractCostGeometry as AbstractCostGeometry,
    AbstractGeometry as AbstractGeometry,
    AbstractPlan as AbstractPlan,
    AbstractPointGeometry as AbstractPointGeometry,
    AbstractSpatialGeometry as AbstractSpatialGeometry,
    Coarse as Coarse,
    Partners as Partners,
    Prepared as Prepared,
)
from ._cells import CURVED_DIMENSIONS as CURVED_DIMENSIONS
from ._cost_matrix import CostMatrix as CostMatrix
from ._grid import Grid as Grid
from ._held_cloud import HeldCloud as HeldCloud
from ._point_cloud import PointCloud as PointCloud
