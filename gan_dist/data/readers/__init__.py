"""File formats and sources of images."""
