"""The reservoir's side: how much liquid enters the well at a bottom-hole pressure."""

import numpy as np

from esp_gateway.simulator.pump import Floats


def inflow_bpd(
    bottomhole_psi: Floats, reservoir_psi: Floats, productivity_bpd_per_psi: Floats, bubble_point_psi: Floats
) -> Floats:
    """Return the liquid rate (stb/d) of the composite inflow curve.

    Above the bubble point PI·(Pr − Pwf); below it Vogel:
    q = qb + PI·Pb/1.8·[1 − 0.2·(Pwf/Pb) − 0.8·(Pwf/Pb)²]. Negative when the well takes liquid.
    """
    bubble = np.minimum(bubble_point_psi, reservoir_psi)
    ratio = np.clip(bottomhole_psi / bubble, 0.0, 1.0)
    vogel = bubble / 1.8 * (1.0 - ratio * (0.2 + 0.8 * ratio))
    drawdown = reservoir_psi - np.maximum(bottomhole_psi, bubble)
    return np.asarray(productivity_bpd_per_psi * (drawdown + vogel))


def productivity_for(
    rate_bpd: Floats, bottomhole_psi: Floats, reservoir_psi: Floats, bubble_point_psi: Floats
) -> Floats:
    """Return the productivity index (bpd/psi) with which the well gives `rate_bpd` at `bottomhole_psi`."""
    return rate_bpd / inflow_bpd(bottomhole_psi, reservoir_psi, np.ones_like(rate_bpd), bubble_point_psi)
