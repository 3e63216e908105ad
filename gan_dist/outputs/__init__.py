"""What a run writes and shows: its folder, checkpoints, pictures, console and trackers."""
