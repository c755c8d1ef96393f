"""The command line: ``lit-distill VERB …``, its config files and their errors.

May import ``modules`` and everything below; ``chain`` and ``doctor`` are above.
"""

from lit_distill.cli.command import DistillationCLI, find_configs, main

__all__ = ["DistillationCLI", "find_configs", "main"]
