from ._acceleration import (
    AbstractAcceleration as AbstractAcceleration,
    Anderson as Anderson,
    Overrelaxation as Overrelaxation,
    Plain as Plain,
)
from ._adaptive import Adaptive as Adaptive
from ._annealing import (
    AbstractAnnealing as AbstractAnnealing,
    GeometricAnnealing as GeometricAnnealing,
    NoAnnealing as NoAnnealing,
)
from ._base import (
    AbstractSolver as AbstractSolver,
    Outcome as Outcome,
    Potentials as Potentials,
    size_of as size_of,
)
from ._choice import chosen_solver as chosen_solver
from ._coarse_to_fine import CoarseToFine as CoarseToFine
from ._lbfgs import LBFGS as LBFGS
from ._newton import DualNewton as DualNewton
from ._sinkhorn import Sinkhorn as Sinkhorn, SymmetricSinkhorn as SymmetricSinkhorn
from ._watched import Watched as Watched
