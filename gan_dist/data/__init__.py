"""Where the images come from, and how they reach a step."""
