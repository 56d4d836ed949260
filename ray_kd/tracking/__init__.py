"""W&B: one W&B run for each run whose spec asks for it."""
