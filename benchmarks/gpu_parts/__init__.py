"""The parts of benchmarks/gpu.py. Each writes rows to the table; the training happens in processes of its own."""
