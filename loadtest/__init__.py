"""Load tests: k6 scripts that send at a given rate whatever comes back, and what runs them and
reads their results.

Knows the service by its proto alone: everything here runs against any server that speaks it.
"""
