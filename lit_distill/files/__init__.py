"""Files read safely and written whole: checkpoints of any origin, archives, resumed runs.

May import ``utils``.
"""
