"""How good the images are: a classifier that looks at them, and figures of what it sees."""
