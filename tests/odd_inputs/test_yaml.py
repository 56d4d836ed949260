"""YAML as people write it: what YAML 1.1 reads as another value, other encodings, and what files keep.

Cases: yaml/pyyaml issues 486 and 608, opensanctions/opensanctions 3845, ManiacalLabs/BiblioPixel 753 (YAML
1.1 reads 010 as octal, 1:30 as sexagesimal, yes and NO as booleans).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.errors import UserError
from ray_kd.config.registry import REGISTRIES
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.config.yamlio import dump_yaml, parse_yaml, read_yaml
from tests.helpers import TINY

SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0o10", 8),
        ("0x1F", 31),
        ("+3", 3),
        ("0", 0),
        ("-0", 0),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        (".5", 0.5),
        ("1.", 1.0),
        ("null", None),
        ("", None),
        ("true", True),
        ("FALSE", False),
        # Text in YAML 1.2, and in 1.1: octal, binary, sexagesimal, with thousands, booleans, a date, a float.
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("2024-01-02", "2024-01-02"),
        ("=", "="),
        ("1e", "1e"),
    ],
)
def test_a_plain_value_is_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = parse_yaml(f"key: {text}", "here")["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["010", "-007", "08", "00", "0_7"])
def test_a_number_with_leading_zeros_is_refused_with_its_key_and_what_to_write(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_yaml(f"training:\n  seeds: [1, {text}]", "run.yaml")
    plain = str(int(text.replace("_", "").lstrip("-"))) if text != "-007" else "-7"
    for word in ("run.yaml", "'training.seeds.1'", "line 2", f"Write {plain}", f"'{text}'"):
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=true", ["'optimizer.lr'", "number", "true"]),
        ("optimizer.lr='0.1 '", ["'optimizer.lr'", "number", "'0.1 '"]),
        ("optimizer.lr='01'", ["'optimizer.lr'", "number", "'01'"]),
        ("optimizer.lr=inf", ["'optimizer.lr'", "number", "'inf'"]),
        ("optimizer.lr=1:30", ["'optimizer.lr'", "number", "'1:30'"]),
        ("optimizer.lr=1_000", ["'optimizer.lr'", "number", "'1_000'"]),
        ("optimizer.lr=010", ["optimizer.lr", "Write 10", "0o10 if it is octal"]),
        ("optimizer.lr=.inf", ["'optimizer.lr'", "finite"]),
        ("optimizer.lr=-.INF", ["'optimizer.lr'"]),
        ("optimizer.nesterov=yes", ["'optimizer.nesterov'", "true or false", "'yes'"]),
        ("optimizer.nesterov=1", ["'optimizer.nesterov'", "true or false", "1"]),
        ("training.epochs=on", ["'training.epochs'", "whole number", "'on'"]),
        ("training.epochs=true", ["'training.epochs'", "whole number", "true"]),
        ("training.epochs=2.5", ["'training.epochs'", "2.5"]),
        ("schedule.milestones=[1, yes]", ["'schedule.milestones'", "'yes'"]),
        ("seed=2024-01-02", ["'seed'", "'2024-01-02'"]),
        ("seed=0b1", ["'seed'", "'0b1'"]),
        ("paths=[{name: soft_target, weight: true}]", ["'weight'", "number", "true"]),
        ("paths=[{name: soft_target, weight: '1_0'}]", ["'weight'", "number", "'1_0'"]),
        ("paths=[{name: soft_target, temperature: yes}]", ["'temperature'", "number", "'yes'"]),
        ("dataset.labels=120_0", ["'labels'", "whole number", "'120_0'"]),
        ("resources.loaders=false", ["'resources.loaders'", "whole number", "false"]),
    ],
)
def test_a_run_takes_a_number_for_a_number_and_nothing_else(
    tmp_path: Path, override: str, says: list[str]
) -> None:
    key, _, value = override.partition("=")
    section, _, option = key.partition(".")
    named = "name: digits, " if section == "dataset" else ""
    plain, given = tmp_path / "plain.yaml", tmp_path / "given.yaml"
    plain.write_text(dump_yaml({**TINY, "paths": ["soft_target"]}))
    rest = {name: part for name, part in {**TINY, "paths": []}.items() if name != section}
    given.write_text(f"{dump_yaml(rest)}{section}: " + (f"{{{named}{option}: {value}}}" if option else value))
    for load in (lambda: RunSpec.load(plain, override), lambda: RunSpec.load(given)):
        with pytest.raises(UserError) as error:
            load()
        for word in says:
            assert word in str(error.value), str(error.value)


def test_what_can_be_read_rightly_is() -> None:
    spec = RunSpec.parse(
        {**TINY, **parse_yaml("{training: {epochs: 1e1, batch_size: 0x1e}, seed: 0o10}", "x")}
    )
    assert (spec.training.epochs, spec.training.batch_size, spec.seed) == (10, 30, 8)
    text = RunSpec.parse({**TINY, "optimizer": {"lr": "5e-4", "nesterov": "true"}})  # as PyYAML reads 5e-4
    assert (text.optimizer.lr, text.optimizer.nesterov) == (0.0005, True)
    assert RunSpec.parse({**TINY, **parse_yaml("tracking: {wandb: off}", "x")}).tracking.wandb == "off"


@pytest.mark.parametrize("seeds", ["[010]", "[1:30]", "[true]", "[yes]", "['01']", "[1.5]", "[.nan]"])
def test_the_seeds_of_a_sweep_are_whole_numbers(tmp_path: Path, seeds: str) -> None:
    file = tmp_path / "sweep.yaml"
    body = dump_yaml({"name": "x", "base": TINY, "cells": {"alone": {"paths": []}}})
    file.write_text(f"{body}seeds: {seeds}\n")
    with pytest.raises(UserError, match="seeds"):
        SweepSpec.load(file)
    file.write_text(body)
    with pytest.raises(UserError, match="seeds"):
        SweepSpec.load(file, f"seeds={seeds}")


def test_an_axis_value_that_is_no_number_names_its_cell(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"{dump_yaml({'name': 'x', 'base': TINY})}axes: {{optimizer.lr: [0.1, 1:30]}}\n")
    with pytest.raises(UserError, match=r"cell 'lr=1:30'.*'optimizer.lr'.*number"):
        SweepSpec.load(file).plan()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: 1\na: 2\n", ["line 2", "'a' twice"]),
        (b"x: {a: 1, 'a': 2}\n", ["'a' twice"]),
        (b"x:\n\ta: 1\n", ["line 2", "spaces"]),
        (b"a: \xff\xfe\n", ["UTF-8"]),
        ("a: é\n".encode("latin-1"), ["UTF-8"]),
        ("a: 1\n".encode("utf-16"), ["UTF-8", "UTF-16"]),
        (b"a: b\x00c\n", ["U+0000"]),
        (b"a: \x1b[31m\n", ["U+001B"]),
        (b"? [1, 2]\n: 3\n", ["key", "text"]),
        (b"a: &x [*x]\n", ["alias"]),
        (b"a: &x {b: *x}\n", ["alias"]),
        (b"a: 1\n---\na: 2\n", ["not valid YAML"]),
        (b"- a\n", ["mapping", "a list"]),
        (b"", ["mapping", "nothing"]),
        (b"true", ["mapping", "true"]),
    ],
)
def test_a_file_that_cannot_be_read_rightly_says_why(tmp_path: Path, content: bytes, says: list[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(file)
    assert "run.yaml" in str(error.value)
    assert "\n" not in str(error.value)
    for word in says:
        assert word in str(error.value), str(error.value)


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes("\ufeffname: a\r\nseed: 1\r\n".encode())
    assert read_yaml(file) == {"name": "a", "seed": 1}


def test_aliases_that_share_are_read_in_time() -> None:
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    assert len(parse_yaml("\n".join(lines), "here")) == 40


TEXTS = ["010", "089", "1e3", "1e-3", "0o7", "1:30", "yes", "NO", "null", "~", "", "2024-01-02", ".inf", "="]


@pytest.mark.parametrize(
    "text", [*TEXTS, "a: b", "- x", "#1", "'", '"', "\u05d0\u05d1", "\U0001f600", "a\nb", " a "]
)
def test_text_that_is_written_reads_back_as_text(text: str) -> None:
    assert parse_yaml(dump_yaml({"key": text, text: "key"}), "here") == {"key": text, text: "key"}


PINNED = {
    "runs/digits.yaml": "84f67cfd0c404d0c",
    "runs/demo.yaml": "4a572ea096cd9319",
    "runs/judge.yaml": "7cc9e8689e4c01f3",
    "runs/coco_fcos.yaml": "d9d5682a52df364d",
    "runs/cityscapes_r101_r18.yaml": "7c168e364a4b4c04",
    "runs/voc_segmentation_r101_r18.yaml": "f91f3e10b4fc026b",
    "runs/imagenet_r34_r18.yaml": "d8afdbe87ec2b073",
    "runs/cifar100_r50_r18.yaml": "3b0b0219de759726",
    "digits.yaml": "91a161a922d15ed3",
    "all_tasks_digits.yaml": "cf851a10cc853d78",
    "fair_digits.yaml": "d3b20a1bfcdbdbd5",
    "harmful_path.yaml": "6ac48fe5abaa2f8e",
    "judge_utility.yaml": "d4031a5c6068ad6f",
    "utility_ablation.yaml": "baae4699e103f0b2",
}
"""Identities of the files in sweeps/ (of a sweep, a digest of all its trials'), all versions taken as 1: a
component whose version rises changes none of these, another reading of YAML would."""


@pytest.mark.parametrize("file", PINNED)
def test_files_that_people_have_keep_their_identities(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in REGISTRIES.values():
        for name in registry.names():
            monkeypatch.setattr(registry.get(name).Options, "component_version", 1)
    if file.startswith("runs/"):
        found = RunSpec.load(SWEEPS / file).identity()
    else:
        trials = {trial.identity for trial in SweepSpec.load(SWEEPS / file).plan().trials}
        found = hashlib.sha256("".join(sorted(trials)).encode()).hexdigest()[:16]
    assert found == PINNED[file]
