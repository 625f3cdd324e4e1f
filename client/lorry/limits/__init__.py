"""Limiters: how many calls are in flight at once, or how many begin in a second."""
