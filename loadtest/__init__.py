"""Load tests: k6 scripts that send at a fixed rate, and code that runs them and reports.

Only the proto is known of the service: all of this runs against any server that implements it.
"""
