"""Processes: how they start, meet, agree, stop and find out that one is lost."""
