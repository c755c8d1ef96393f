"""What a network costs: parameters, operations, bytes, memory and time.

May import ``batch`` and what lies below it.
"""

from lit_distill.measures.cost import Cost, cost_of
from lit_distill.measures.latency import Latency, latencies
from lit_distill.measures.samples import one_sample, some_samples

__all__ = ["Cost", "Latency", "cost_of", "latencies", "one_sample", "some_samples"]
