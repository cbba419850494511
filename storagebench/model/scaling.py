"""Time and cost of a piece of training against the number of accelerators that share one bandwidth, and what more bandwidth would be worth.

From the cost model of reference/tta-cost-kubeflow.md section 2: n* = R_storage / r_1, e(n) = T(1) / (n T(n)), cost(n) / cost(1) = 1 / e(n). In all of it
`work_s` are the accelerator seconds of compute of the piece (an epoch, a training), above 0: what one accelerator takes that never waits. `accelerators`
above 0, not whole where a line is drawn. `au` 0..1, above 0. `knee` is n* in accelerators, above 0, infinity where nothing limits them; `bandwidth` what they
get there, bytes/s, above 0. Cost is in accelerator seconds, so that a price is one factor: money = accelerator seconds / 3600 x price per hour. Storage's own price is
not in it.
"""

from __future__ import annotations

import math


def knee(bandwidth: float, demand_of_one: float) -> float:
    """n* = R_storage / r_1: as many accelerators take the whole bandwidth at AU 1, no whole number. Both in one unit, the demand above 0."""
    return bandwidth / demand_of_one


def busy_share(accelerators: float, knee: float) -> float:
    """AU of N accelerators on one bandwidth with perfect overlap, min(1, n* / N) (`closed_forms.pipelined` without latency)."""
    return min(1.0, knee / accelerators)


def time_s(work_s: float, accelerators: float, au: float) -> float:
    """T(N) = work / (N x AU): 1 / N up to the knee, flat beyond it. Seconds."""
    return work_s / (accelerators * au)


def accelerator_s(work_s: float, au: float) -> float:
    """N x T(N) = work / AU: flat up to the knee, N / n* times as much beyond it. Accelerator seconds."""
    return work_s / au


def relative_cost(au: float) -> float:
    """Against accelerators that never wait, 1 / AU: 1 / e(N) where one accelerator alone does not wait."""
    return 1.0 / au


def stalled_s(work_s: float, au: float) -> float:
    """Accelerator seconds that are paid for and spent waiting: the stall share 1 - AU of the cost, work (1 / AU - 1)."""
    return work_s * (1.0 / au - 1.0)


def worth_of_more(work_s: float, accelerators: float, knee: float, bandwidth: float, more: float) -> float:
    """Accelerator seconds saved by `more` bytes/s, from 0: nothing up to the knee, and never more than what is stalled."""
    wider = knee * (1.0 + more / bandwidth)  # in this form never below the knee by rounding
    return accelerator_s(work_s, busy_share(accelerators, knee)) - accelerator_s(work_s, busy_share(accelerators, wider))


def step_of(bandwidth: float) -> float:
    """The piece of bandwidth whose worth is asked for: 1 GB/s, of less than that a power of ten up to half of it. Bytes/s.

    >>> step_of(40e9), step_of(1.2e9), step_of(3.3e6), step_of(1.1e6)
    (1000000000.0, 1000000000.0, 1000000.0, 100000.0)
    """
    return 1e9 if bandwidth >= 1e9 else 10.0 ** math.floor(math.log10(bandwidth / 2) + 1e-9)
