"""Generators of samples: losses, critics and their Lipschitz tools, and a training step."""

from ._batches import Ends as Ends
from ._clipping import clip_weights as clip_weights, keep_params_within as keep_params_within
from ._entropic import entropic_dual as entropic_dual, entropic_semi_dual as entropic_semi_dual
from ._games import (
    EntropicDualGAN as EntropicDualGAN,
    JensenShannonGAN as JensenShannonGAN,
    PenalisedWGAN as PenalisedWGAN,
    SinkhornGAN as SinkhornGAN,
    WGAN as WGAN,
)
from ._losses import (
    critic_loss as critic_loss,
    generator_loss as generator_loss,
    jensen_shannon_critic_loss as jensen_shannon_critic_loss,
    non_saturating_generator_loss as non_saturating_generator_loss,
    saturating_generator_loss as saturating_generator_loss,
)
from ._objective import AbstractGame as AbstractGame, AbstractObjective as AbstractObjective
from ._penalty import (
    gradient_penalty as gradient_penalty,
    OneSided as OneSided,
    TwoSided as TwoSided,
)
from ._regressions import (
    BridgeMatching as BridgeMatching,
    Drifting as Drifting,
    FlowMatching as FlowMatching,
)
from ._slopes import (
    AbstractPlace as AbstractPlace,
    gradient_norms as gradient_norms,
    Samples as Samples,
    Segments as Segments,
)
from ._trainer import Trainer as Trainer, TrainState as TrainState
