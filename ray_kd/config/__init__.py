"""What a run is and what a sweep is: specs, YAML, overrides, identity, the registries."""
