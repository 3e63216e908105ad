"""Evaluation of generated images: a classifier extracts features, and figures compare them with real images."""
