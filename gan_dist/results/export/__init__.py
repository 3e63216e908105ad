"""A run's generator in formats for other programs. `formats.EXPORTERS` has them."""
