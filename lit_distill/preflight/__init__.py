"""Checks before the first batch: networks, criteria and data that would fail later, or train nothing.

May import ``engine`` and everything below it.
"""
