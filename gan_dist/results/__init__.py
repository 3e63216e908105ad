"""What users do with a run folder: sample, evaluate, diagnose, compare."""
