"""Measure speed, side by side with named peers."""
