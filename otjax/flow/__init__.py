"""The dynamic picture: velocities, flows and particles that carry one measure to another."""

from ._adaptive import Tsit5 as Tsit5
from ._benamou_brenier import (
    benamou_brenier as benamou_brenier,
    DynamicSolution as DynamicSolution,
)
from ._bridge import bridge_loss as bridge_loss, score_and_flow_loss as score_and_flow_loss
from ._coupling import (
    AbstractCoupling as AbstractCoupling,
    Conditional as Conditional,
    Independent as Independent,
    Minibatch as Minibatch,
    Paired as Paired,
)
from ._diffuse import diffuse as diffuse, Diffusion as Diffusion
from ._drift import (
    AbstractDrift as AbstractDrift,
    Drift as Drift,
    drift_loss as drift_loss,
    DriftSolutions as DriftSolutions,
)
from ._energies import entropy as entropy, potential_energy as potential_energy
from ._followed import Followed as Followed
from ._gaussian_bridge import GaussianBridge as GaussianBridge
from ._gradient_flow import (
    gradient_flow as gradient_flow,
    GradientFlow as GradientFlow,
)
from ._integrate import (
    AbstractTrace as AbstractTrace,
    ExactTrace as ExactTrace,
    Flow as Flow,
    Hutchinson as Hutchinson,
    integrate as integrate,
    reflow as reflow,
)
from ._interpolant import (
    AbstractInterpolant as AbstractInterpolant,
    BrownianBridge as BrownianBridge,
    Linear as Linear,
    Trigonometric as Trigonometric,
)
from ._jko import convex_step as convex_step, ConvexStep as ConvexStep, jko_loss as jko_loss
from ._light_bridge import light_bridge_loss as light_bridge_loss, LightBridge as LightBridge
from ._matching import velocity_loss as velocity_loss
from ._mean_shift import MeanShift as MeanShift
from ._pairs import (
    AbstractDraw as AbstractDraw,
    Assignment as Assignment,
    Drawn as Drawn,
    JointLaw as JointLaw,
    Pairs as Pairs,
    Rows as Rows,
)
from ._runge_kutta import (
    AbstractRungeKutta as AbstractRungeKutta,
    Euler as Euler,
    Heun as Heun,
    RK4 as RK4,
)
from ._semidiscrete import Semidiscrete as Semidiscrete
from ._sinkhorn_drift import SinkhornDrift as SinkhornDrift
from ._split_drift import SplitSinkhornDrift as SplitSinkhornDrift
