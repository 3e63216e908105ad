"""Processes: how they start, connect, agree and stop, and how a lost one is detected."""
