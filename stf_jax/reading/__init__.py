"""Reading what comes from outside: how much of it, how deep, checked before memory is taken.

docs/safety.md says what is promised.
"""
