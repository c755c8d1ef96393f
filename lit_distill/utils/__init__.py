"""Tools that know nothing of distillation: argument checks, names, copies, random state, signals.

Imports nothing else of the package.
"""
