"""Images: where they come from, and how they are stored, ordered and loaded."""
