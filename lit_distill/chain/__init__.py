"""Chains of fits, each link's student being the next one's teacher."""

from lit_distill.chain.config import read_chain
from lit_distill.chain.link import Link, LinkCheckpoint, Record
from lit_distill.chain.planning import Step, plan, settings_of
from lit_distill.chain.running import main, run

__all__ = ["Link", "LinkCheckpoint", "Record", "Step", "main", "plan", "read_chain", "run", "settings_of"]
