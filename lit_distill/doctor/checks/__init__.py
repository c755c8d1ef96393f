"""The doctor's checks: of a criterion's formula and numbers, and of a few training steps.

May import the doctor's records and samples; imports no command.
"""
