"""Measure speed side by side with named peers, and plan capacity from it."""
