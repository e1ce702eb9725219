"""Rates, durations and bounds of the load tests, each with its unit."""

from __future__ import annotations

from typing import Literal

Profile = Literal["smoke", "step", "soak", "overload"]
Mode = Literal["single", "ray"]

# What a user may change on the command line.
DEFAULT_RATE = 10.0  # requests per second
DEFAULT_SECONDS: dict[Profile, int] = {"smoke": 5, "step": 20, "soak": 600, "overload": 60}
DEFAULT_COMPARE_SECONDS = 10
DEFAULT_CONNECTIONS = 400  # at most
CONNECTIONS_BEYOND_QUEUE = 200  # of an overload: open while the service's queue is full

WARM_UP_SECONDS = 2
SOAK_RAMP_SECONDS = 30  # at most; a soak raises its rate this slowly
SMALLEST_ANSWERED_SHARE = 0.999  # of the requests due, for a rate to be kept
SMALLEST_SENT_SHARE = 0.8  # of a second's requests; the others fall into its neighbours
LARGEST_MEMORY_GROWTH = 1.25  # resident memory at the end / in the second quarter of a test

# The step test.
LARGEST_STEPS = 16
STEP_GROWTH = 2.0  # each rate / the one before
STEP_HALVINGS = 3  # of the gap in which the knee lies
SMALLEST_STEP_GROWTH = 1.1  # two rates closer than this count as one

# The overload test.
OVERLOAD_FACTOR = 4  # times the given rate
OVERLOAD_AROUND_SECONDS = 10  # of half the rate, before and after
LARGEST_RECOVERY_SECONDS = 5  # after it, until all requests are answered in time again

# The comparison with the engine.
COMPARE_ROUNDS = 3
COMPARE_RATES: dict[Mode, float] = {"single": 200.0, "ray": 100.0}  # vector queries per second
HEAVY_RATE = 300.0  # vector queries per second through Ray, none of which may fail
# k6 opens connections slowly on a busy machine and drops what is due meanwhile: open them early.
HEAVY_CONNECTIONS = 200
LARGEST_ADDED_MS = 0.8  # that a single process adds to the p50 of its engine
LARGEST_RAY_MS = 3.5  # p50 of a query through Ray, with ingress and shards in separate processes
