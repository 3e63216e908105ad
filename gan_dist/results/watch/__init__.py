"""`gan-dist watch`: a run in the terminal, also while it trains. Frames are pure functions of what was read."""
