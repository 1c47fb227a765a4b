"""Optimal maps as networks."""

from ._dual import Descent as Descent, neural_map as neural_map
from ._methods import (
    AbstractConjugation as AbstractConjugation,
    Amortised as Amortised,
    Cycle as Cycle,
    MinMax as MinMax,
)
from ._networks import NearIdentity as NearIdentity
from ._refinement import Refinement as Refinement
from ._solution import NeuralMap as NeuralMap
