"""The trials of a sweep: which is next, and what became of it. Nothing here knows of Ray."""
