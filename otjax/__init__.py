"""Differentiable optimal transport in JAX."""

import importlib.metadata

from . import flow as flow, gan as gan, neural as neural, nn as nn
from ._adjoint import (
    AbstractAdjoint as AbstractAdjoint,
    ImplicitAdjoint as ImplicitAdjoint,
    UnrolledAdjoint as UnrolledAdjoint,
)
from ._assignment import Assignment as Assignment, assignment as assignment
from ._barycenter import (
    AbstractBarycenterObjective as AbstractBarycenterObjective,
    Barycenter as Barycenter,
    barycenter as barycenter,
    Debiased as Debiased,
    Entropic as Entropic,
)
from ._certificate import Certificate as Certificate, certify as certify
from ._conversion import with_masses as with_masses, without_masses as without_masses
from ._divergence import divergence as divergence
from ._exact import ExactSolution as ExactSolution, solve_exact as solve_exact
from ._gaussian import (
    AffineMap as AffineMap,
    bures_wasserstein as bures_wasserstein,
    gaussian_barycenter as gaussian_barycenter,
    gaussian_geodesic as gaussian_geodesic,
    gaussian_map as gaussian_map,
    GaussianBarycenter as GaussianBarycenter,
    GaussianSolution as GaussianSolution,
    mixture_wasserstein as mixture_wasserstein,
    solve_gaussian as solve_gaussian,
    squared_bures_wasserstein as squared_bures_wasserstein,
)
from ._geometry import (
    AbstractGeometry as AbstractGeometry,
    AbstractPlan as AbstractPlan,
    CostMatrix as CostMatrix,
    Grid as Grid,
    Partners as Partners,
    PointCloud as PointCloud,
    Prepared as Prepared,
)
from ._ground_cost import (
    AbstractFactoredCost as AbstractFactoredCost,
    AbstractGroundCost as AbstractGroundCost,
    Cosine as Cosine,
    Euclidean as Euclidean,
    PNorm as PNorm,
    SqEuclidean as SqEuclidean,
)
from ._line import (
    LineSolution as LineSolution,
    quantile as quantile,
    transport_1d as transport_1d,
    wasserstein_1d as wasserstein_1d,
    wasserstein_circle as wasserstein_circle,
)
from ._maps import (
    ConvexMap as ConvexMap,
    gradient_map as gradient_map,
    nearest as nearest,
)
from ._marginals import (
    AbstractMarginal as AbstractMarginal,
    Balanced as Balanced,
    Unbalanced as Unbalanced,
)
from ._memory import Memory as Memory, memory_needed as memory_needed
from ._monge_gap import monge_gap as monge_gap
from ._problem import (
    EntropicProblem as EntropicProblem,
    PreparedProblem as PreparedProblem,
    Relative as Relative,
)
from ._reduction import (
    AbstractEngine as AbstractEngine,
    Dense as Dense,
    Pallas as Pallas,
    Streamed as Streamed,
)
from ._results import RESULTS as RESULTS
from ._sinkhorn_divergence import sinkhorn_divergence as sinkhorn_divergence
from ._sinkhorn_knopp import (
    ScaledMatrix as ScaledMatrix,
    sinkhorn_knopp as sinkhorn_knopp,
    sinkhorn_knopp_log as sinkhorn_knopp_log,
)
from ._slack import Partial as Partial, TotalVariation as TotalVariation
from ._sliced import (
    max_sliced_wasserstein as max_sliced_wasserstein,
    MaxSlice as MaxSlice,
    random_directions as random_directions,
    sliced_plan as sliced_plan,
    sliced_wasserstein as sliced_wasserstein,
    SlicedPlan as SlicedPlan,
    SphereAscent as SphereAscent,
)
from ._soft_sort import (
    soft_quantile as soft_quantile,
    soft_rank as soft_rank,
    soft_sort as soft_sort,
    soft_top_k as soft_top_k,
)
from ._solution import Solution as Solution, Stats as Stats
from ._solve import solve as solve
from ._solver import (
    AbstractAcceleration as AbstractAcceleration,
    AbstractAnnealing as AbstractAnnealing,
    AbstractSolver as AbstractSolver,
    Adaptive as Adaptive,
    Anderson as Anderson,
    CoarseToFine as CoarseToFine,
    DualNewton as DualNewton,
    GeometricAnnealing as GeometricAnnealing,
    LBFGS as LBFGS,
    NoAnnealing as NoAnnealing,
    Outcome as Outcome,
    Overrelaxation as Overrelaxation,
    Plain as Plain,
    Sinkhorn as Sinkhorn,
    SymmetricSinkhorn as SymmetricSinkhorn,
    Watched as Watched,
)
from ._spread import spread_rows as spread_rows
from ._stochastic import (
    semidiscrete as semidiscrete,
    SemidiscreteSolution as SemidiscreteSolution,
    StochasticAscent as StochasticAscent,
)
from ._vertex import SparsePlan as SparsePlan
from ._wasserstein import wasserstein as wasserstein


try:
    __version__ = importlib.metadata.version("otjax")
except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"
