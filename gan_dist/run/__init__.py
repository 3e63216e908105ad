"""What a run does besides arithmetic."""
