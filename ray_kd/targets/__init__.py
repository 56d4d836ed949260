"""Stored targets: which a run needs, computing them, and reading them as training asks for them."""
