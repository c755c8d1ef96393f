"""Operations that several methods share: divergences, rows of logits, aligned features, statistics.

Imports no method.
"""
