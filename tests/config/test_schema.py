"""The exported JSON schemas accept what ray-kd accepts, and mark what it refuses."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.config.schema import json_schema

RUN: dict[str, Any] = {
    "dataset": {"name": "digits", "labels": 100},
    "student": "digits_cnn",
    "teachers": {
        "big": {"model": {"name": "digits_cnn", "width": 8}},
        "assistant": {
            "model": "digits_cnn",
            "paths": ["logits", {"name": "nst", "teacher": "big"}],
            "aggregation": "equal",
            "targets": {"source": "stored"},
        },
    },
    "paths": ["logits", {"name": "soft_target", "weight": "published"}],
    "targets": "stored",
    "aggregation": {"name": "adaptive", "granularity": "layer"},
}
SWEEP: dict[str, Any] = {
    "name": "tiny",
    "base": RUN,
    "cells": {"alone": {"paths": []}},
    "axes": {"optimizer.lr": [0.1], "how": {"equal": {"aggregation": "equal"}}},
    "search": {"trials": 3, "space": {"optimizer.lr": {"log_uniform": [0.1, 1]}, "aggregation.k": [1, 2]}},
    "scheduler": {"name": "asha", "grace_epochs": 3},
}


@pytest.mark.parametrize(("kind", "data"), [("run", RUN), ("sweep", SWEEP)])
def test_a_valid_file_is_valid(kind: str, data: dict[str, Any]) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("run", {**RUN, "studnet": "digits_cnn"}),
        ("run", {**RUN, "student": "digit_cnn"}),
        ("run", {**RUN, "paths": [{"name": "logits", "weigth": 1}]}),
        ("run", {**RUN, "training": {"epochs": 0}}),
        ("run", {**RUN, "targets": "stord"}),
        ("run", {**RUN, "teachers": {"big": {"model": "digits_cnn", "paths": [{"name": "nst", "labl": 1}]}}}),
        ("sweep", {**SWEEP, "seeds": [-1]}),
        ("sweep", {**SWEEP, "scheduler": "pbt"}),
        ("sweep", {**SWEEP, "base": {**RUN, "dataset": {"name": "digits", "lables": 3}}}),
        ("sweep", {**SWEEP, "search": {"trials": 3, "space": {"optimizer.lr": {"log": [1, 2]}}}}),
    ],
)
def test_a_wrong_file_is_not(kind: str, data: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema(kind))


def test_every_path_and_every_option_is_described() -> None:
    definitions = json_schema("run")["$defs"]
    names, *forms = definitions["path"]["anyOf"]
    assert names["enum"] == PATHS.names() == [form["title"] for form in forms]
    assert all(form["description"] for form in forms)
    assert "weight" in definitions["path"]["anyOf"][1]["properties"]["weight"]["description"]
    assert "rank" in definitions["Training"]["properties"]["batch_size"]["description"]


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'sweep'"):
        json_schema("sweeps")
