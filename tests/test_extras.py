"""What the base install needs, and that requirements.lock yields every extra whole."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

BASE = {
    "faster-coco-eval", "matplotlib", "numpy", "optuna", "pandas", "psutil", "pyarrow", "pydantic", "pyyaml",
    "ray", "rich", "safetensors", "scikit-learn", "scipy", "torch", "torchvision", "typer",
}  # fmt: skip
"""The packages that everybody has to install: one more wants a reason, and a line here."""


def locked() -> dict[str, list[Requirement]]:
    """The lines of requirements.lock by name; a package has several where platforms differ."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def here(requirement: Requirement, extra: str = "") -> bool:
    """Whether this machine and this Python need it."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def missing(wanted: list[str]) -> list[str]:
    """What the lock lacks of some requirements, with all that those need in turn, on this machine."""
    lock, lacking, seen = locked(), [], set()
    left = [(Requirement(text), "pyproject.toml") for text in wanted]
    while left:
        requirement, source = left.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        versions = [next(iter(line.specifier)).version for line in lock.get(name, []) if here(line)]
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            lacking.append(f"{requirement} (for {source}); the lock has {versions or 'none'}")
            continue
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # whose own needs nothing tells: an environment from the lock has it
            lacking.append(f"{name} is in the lock and not installed here; run make setup")
            continue
        for text in needs:
            need = Requirement(text)
            if any(here(need, extra) for extra in ("", *requirement.extras)):
                left.append((need, name))
    return lacking


def test_the_base_install_needs_what_it_needed() -> None:
    assert {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]} == BASE


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_yields_an_extra_with_all_that_it_needs(extra: str) -> None:
    assert missing([*PROJECT["dependencies"], *EXTRAS[extra]]) == []


def test_what_the_lock_lacks_is_found() -> None:
    (lacking,) = missing(["torch>=99"])
    assert lacking.startswith("torch>=99 (for pyproject.toml); the lock has ['2.")
    assert missing(["no-such-package"]) == ["no-such-package (for pyproject.toml); the lock has none"]


@pytest.mark.parametrize("extra", [name for name in EXTRAS if name not in ("dev", "peers")])
def test_make_lock_resolves_every_extra_and_make_setup_installs_the_lock(extra: str) -> None:
    """A clone has them all after `make setup`, since the lock holds them."""
    text = (ROOT / "Makefile").read_text()
    assert f"--extra {extra} " in text
    assert "-r requirements.lock" in text
