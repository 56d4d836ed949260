"""Specs of runs and sweeps, YAML, overrides, identity, and the registries."""
