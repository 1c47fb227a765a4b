from ._base import AbstractGeometry as AbstractGeometry
from ._cost_matrix import CostMatrix as CostMatrix
from ._point_cloud import PointCloud as PointCloud
