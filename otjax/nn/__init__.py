"""Generators and critics as Equinox modules, and layers whose slope is bounded."""

from ._conv import ConvCritic as ConvCritic, ConvGenerator as ConvGenerator
from ._convex import ICNN as ICNN, QuadraticICNN as QuadraticICNN
from ._group_sort import GroupSort as GroupSort, max_min as max_min
from ._lipschitz import LipschitzConv as LipschitzConv, LipschitzMLP as LipschitzMLP
from ._mlp import (
    FourierFeatures as FourierFeatures,
    MLPCritic as MLPCritic,
    MLPGenerator as MLPGenerator,
)
from ._orthogonal import OrthogonalConv as OrthogonalConv, OrthogonalLinear as OrthogonalLinear
from ._residual import ResidualCritic as ResidualCritic, ResidualGenerator as ResidualGenerator
from ._spectral import spectral_norm as spectral_norm, SpectralNorm as SpectralNorm
