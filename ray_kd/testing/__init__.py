"""What plug-ins test themselves with."""
