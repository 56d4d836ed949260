"""The command ray-kd: one thin file for each verb."""
