"""Pictures of transport, by matplotlib (the extra `plot`); `import otjax` does not import this."""

from ._convergence import convergence as convergence
from ._frames import animate as animate, density_frames as density_frames, frames as frames
from ._functions import map_arrows as map_arrows, potential as potential
from ._plans import (
    marginals as marginals,
    plan_lines as plan_lines,
    plan_matrix as plan_matrix,
)
