"""What several methods compute: divergences, aligned features, labelled rows, statistics.

Imports no method.
"""
