"""Transport between Gaussians and their mixtures, in closed form or nearly so."""

from ._barycenter import (
    gaussian_barycenter as gaussian_barycenter,
    GaussianBarycenter as GaussianBarycenter,
)
from ._bures import (
    AffineMap as AffineMap,
    bures_wasserstein as bures_wasserstein,
    gaussian_geodesic as gaussian_geodesic,
    gaussian_map as gaussian_map,
    squared_bures_wasserstein as squared_bures_wasserstein,
)
from ._entropic import GaussianSolution as GaussianSolution, solve_gaussian as solve_gaussian
from ._mixture import mixture_wasserstein as mixture_wasserstein
