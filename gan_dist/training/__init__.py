"""The arithmetic of a run, and the loop around it."""
