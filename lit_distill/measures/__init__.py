"""What a network costs: parameters, operations, bytes, memory and time.

May import ``batch`` and what lies below it.
"""

from lit_distill.measures.cost import Cost, cost_of
from lit_distill.measures.latency import Latency, latencies
from lit_distill.measures.samples import first_sample, some_samples

__all__ = ["Cost", "Latency", "cost_of", "first_sample", "latencies", "some_samples"]
