"""W&B: one run for each trial, only where a spec asks for it."""
