"""What a barycentre minimises."""

from typing import ClassVar

import equinox as eqx


class AbstractBarycenterObjective(eqx.Module):
    """The distance whose weighted sum a barycentre minimises."""

    debiased: eqx.AbstractClassVar[bool]
    """Whether the entropy's own blur is taken off."""


class Entropic(AbstractBarycenterObjective):
    r"""The entropic cost of transport, $\min \langle P, C \rangle + \epsilon \sum P \log P$ over
    plans between two measures: the barycentre is blurred by about $\sqrt\epsilon$
    (Benamou et al. 2015, arXiv:1412.5154)."""

    debiased: ClassVar[bool] = False


class Debiased(AbstractBarycenterObjective):
    """The Sinkhorn divergence: no blur, for the barycentre of equal measures is that measure
    (Janati, Cuturi and Gramfort 2020, arXiv:2006.02575). The cost must be symmetric."""

    debiased: ClassVar[bool] = True
