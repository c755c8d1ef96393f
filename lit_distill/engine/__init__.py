"""The code that every distillation shares, module or callback: outputs in, weighted losses and metrics out.

May import ``teachers``, ``criteria``, ``balance``, ``schedules`` and what lies below them; knows no LightningModule of ours.
"""
