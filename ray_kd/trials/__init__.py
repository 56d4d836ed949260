"""The trials of a sweep: which one is next, and how each ended. Nothing here imports Ray."""
