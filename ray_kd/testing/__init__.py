"""What plug-ins test themselves with: the suites that ``ray_kd.plugin`` offers, and what they are made of."""

try:
    import pytest
except ImportError as error:
    raise ImportError("the suites of ray_kd.plugin need pytest: pip install pytest") from error

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("aggregators", "datasets", "models", "paths", "state"))
)
