"""Stored targets: which ones a run needs, how they are computed, and how training reads them."""
