"""Differentiable optimal transport in JAX."""

import importlib.metadata

from . import flow as flow, gan as gan, nn as nn
from ._adjoint import (
    AbstractAdjoint as AbstractAdjoint,
    ImplicitAdjoint as ImplicitAdjoint,
    UnrolledAdjoint as UnrolledAdjoint,
)
from ._certificate import Certificate as Certificate, certify as certify
from ._divergence import sinkhorn_divergence as sinkhorn_divergence
from ._exact import ExactSolution as ExactSolution, solve_exact as solve_exact
from ._geometry import (
    AbstractGeometry as AbstractGeometry,
    CostMatrix as CostMatrix,
    PointCloud as PointCloud,
)
from ._ground_cost import (
    AbstractGroundCost as AbstractGroundCost,
    Cosine as Cosine,
    Euclidean as Euclidean,
    PNorm as PNorm,
    SqEuclidean as SqEuclidean,
)
from ._marginals import (
    AbstractMarginal as AbstractMarginal,
    Balanced as Balanced,
    Unbalanced as Unbalanced,
)
from ._problem import EntropicProblem as EntropicProblem
from ._results import RESULTS as RESULTS
from ._solution import Solution as Solution, Stats as Stats
from ._solve import solve as solve
from ._solver import (
    AbstractAcceleration as AbstractAcceleration,
    AbstractAnnealing as AbstractAnnealing,
    AbstractSolver as AbstractSolver,
    Adaptive as Adaptive,
    Anderson as Anderson,
    DualNewton as DualNewton,
    GeometricAnnealing as GeometricAnnealing,
    LBFGS as LBFGS,
    NoAnnealing as NoAnnealing,
    Overrelaxation as Overrelaxation,
    Plain as Plain,
    Sinkhorn as Sinkhorn,
    SymmetricSinkhorn as SymmetricSinkhorn,
)
from ._wasserstein import wasserstein as wasserstein


try:
    __version__ = importlib.metadata.version("otjax")
except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"
