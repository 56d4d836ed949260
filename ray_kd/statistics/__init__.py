"""Intervals, looks and verdicts, on plain numbers."""
