from ._semidiscrete import (
    semidiscrete as semidiscrete,
    SemidiscreteSolution as SemidiscreteSolution,
    StochasticAscent as StochasticAscent,
)
