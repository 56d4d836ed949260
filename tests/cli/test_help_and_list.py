"""Help and lists: quick because nothing heavy is imported, true because they are held against the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml

from ray_kd.cli.catalogue import catalogue
from ray_kd.cli.main import VERBS, app
from ray_kd.config.registry import REGISTRIES
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.models.describe import image_notes
from tests.cli.conftest import Cli
from tests.helpers import TINY

ROOT = Path(__file__).parents[2]
NAMES = [name for name, _ in VERBS]
LISTS = [["list"], *(["list", kind] for kind in REGISTRIES), ["list", "run"], ["list", "sweep"]]
LIGHT = [["--help"], *([verb, "--help"] for verb in NAMES), *LISTS, ["list", "aggregators", "adaptive"]]

PROBE = """
import json, sys
from ray_kd.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    heavy = {"torch", "ray", "wandb", "pandas", "scipy", "matplotlib", "sklearn"} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""


def test_help_and_list_import_nothing_heavy() -> None:
    """Which is what keeps them within a second or two; importing PyTorch alone takes longer."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(LIGHT)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", LIGHT[: len(NAMES) + 1], ids=" ".join)
def test_help_fits_a_terminal(cli: Cli, arguments: list[str]) -> None:
    said = cli(*arguments)
    assert said.code == 0
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert "..." not in said.out.replace("]...", ""), "a sentence was cut"


def examples(verb: str) -> list[list[str]]:
    """The example commands of a help text, without the words that explain them."""
    text = dict(VERBS)[verb].__doc__ or ""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("ray-kd ")]
    return [shlex.split(re.split(r"\s{3,}| > ", line)[0])[1:] for line in lines]


@pytest.mark.parametrize("verb", NAMES)
def test_every_verb_teaches_by_examples_that_work(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = examples(verb)
    assert found
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    for name, *arguments in found:
        assert name == verb
        context = command.make_context(verb, list(arguments))  # raises where an option does not exist
        if verb in ("train", "teacher"):
            RunSpec.load(context.params["file"], *(context.params["overrides"] or ()))
        if verb == "sweep":
            SweepSpec.load(context.params["file"], *(context.params["overrides"] or ()))


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_catalogue_says_what_the_code_registers(kind: str) -> None:
    items = {item.name: item for item in catalogue(kind)}
    registry = REGISTRIES[kind]
    assert sorted(items) == registry.names()
    for name, item in items.items():
        cls = registry.get(name)
        assert item.source == cls.source
        assert item.summary
        assert {option.name for option in item.options} == set(cls.Options.model_fields)
        for option in item.options:
            default = cls.Options.model_fields[option.name].default
            assert option.default in (str(default), repr(default), "required"), (name, option)
        if kind == "aggregators":
            assert item.cost == str(cls.cost)
            assert item.source
        if kind == "paths":
            assert float(item.weight) == cls.published_weight
        assert item.tasks == getattr(cls, "tasks", ())


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_table_shows_everything_within_80_columns(cli: Cli, kind: str) -> None:
    said = cli("list", kind)
    assert said.code == 0
    assert max(len(line) for line in said.out.splitlines()) <= 80
    for item in catalogue(kind):
        (at,) = [row for row, line in enumerate(said.out.splitlines()) if line.split()[:1] == [item.name]]
        rows = "".join(said.out.splitlines()[at : at + 4])
        words = (item.source or item.summary).split()
        assert all(word in rows for word in words[:3]), item.name
    for option in {option.name for item in catalogue(kind) for option in item.options}:
        assert re.search(rf"\b{option}\b", said.out), option


def test_one_is_explained_with_its_formula(cli: Cli) -> None:
    said = cli("list", "aggregators", "adaptive")
    assert said.code == 0
    for word in (
        r"e^{-a_i} w_i L_i",
        "arXiv 2110.09674",
        "backwards per step: 1",
        "path | layer",
        "smoothing",
    ):
        assert word in said.out
    assert ":math:" not in said.out
    said = cli("list", "paths", "attention_transfer")
    assert "published weight: 1000\n" in said.out


def test_every_key_of_a_file_loads_as_its_defaults(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(cli("list", "run").out)
    shown = RunSpec.load(file, "paths=[]", "teachers={}")
    assert shown == RunSpec.parse({"dataset": "digits", "student": "digits_cnn"})
    assert set(yaml.safe_load(file.read_text())) >= set(RunSpec.model_fields)
    sweep = yaml.safe_load(cli("list", "sweep").out)
    assert set(sweep) == set(SweepSpec.model_fields)


@pytest.mark.parametrize(("kind", "model"), [("run", RunSpec), ("sweep", SweepSpec)])
def test_the_schema_for_editors_is_within_reach(cli: Cli, kind: str, model: type) -> None:
    said = cli("list", kind, "--schema")
    assert said.code == 0
    assert set(json.loads(said.out)["properties"]) >= set(model.model_fields)  # type: ignore[attr-defined]
    text = cli("list", "--help").out
    assert "list run --schema" in text
    assert "yaml-language-server" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tarin"], "Did you mean 'train'"),
        (["list", "path"], "Did you mean 'paths'"),
        (["list", "aggregators", "adaptve"], "Did you mean 'adaptive'"),
        (["list", "paths", "--schema"], "run and sweep only"),
        (["list", "run", "nst"], "no name"),
        (["sweep", "s.yaml", "--plam"], "--plan"),
        (["sweep", "s.yaml", "--trials"], "--plan"),
        (["sweep", "s.yaml", "--probe"], "--plan"),
        (["train"], "RUN.yaml"),
    ],
)
def test_a_typo_is_met_with_the_nearest_word(cli: Cli, arguments: list[str], says: str) -> None:
    said = cli(*arguments)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""


def test_a_models_taps_are_printed(cli: Cli) -> None:
    said = cli("list", "models", "torchvision", "arch=swin_t", "size=64", "--taps")
    assert said.code == 0
    assert ["0", "features.1", "96", "x", "16", "x", "16", "4", "N", "x", "H", "x", "W", "x", "C"] in [
        line.split() for line in said.out.splitlines()
    ]
    said = cli("list", "models", "digits_cnn", "size=8", "channels=1", "--taps")
    assert "24 x 2 x 2" in said.out
    assert "for images of 8 x 8 with 1 channels" in said.out
    said = cli("list", "paths", "nst", "--taps")
    assert (said.code, "expected a model" in said.err) == (2, True)
    assert cli("list", "models", "digits_cnn", "width=4").code == 2


def test_what_images_a_network_is_for_is_shown(cli: Cli) -> None:
    pytest.importorskip("timm")
    said = cli("list", "models", "timm", "model=vit_tiny_patch16_224", "size=[32,64]", "--taps")
    assert "192 x 2 x 4" in said.out
    assert "1 before the grid" in said.out
    assert "made for images of 224 x 224, mean 0.5, 0.5, 0.5, deviation 0.5, 0.5, 0.5" in said.out


def test_a_plan_says_what_images_a_network_was_made_for() -> None:
    pytest.importorskip("timm")
    drawn = {"name": "timm", "model": "resnet18"}
    student = {**drawn, "weights": "PRETRAINED"}
    spec = RunSpec.parse({**TINY, "student": student, "paths": ["soft_target"]})
    (note,) = image_notes([spec, spec])
    assert note.startswith("student (timm) was made for images of 224 x 224, mean 0.485")
    taught = RunSpec.parse({**TINY, "teacher": {"model": drawn, "weights": "PRETRAINED"}, "paths": ["nst"]})
    assert [note.partition(" was")[0] for note in image_notes([taught])] == ["teacher 'teacher' (timm)"]


def test_a_plan_says_nothing_of_images_to_networks_with_drawn_weights() -> None:
    pytest.importorskip("timm")
    drawn = {"name": "timm", "model": "resnet18"}
    untaught = {"model": drawn, "weights": "initial"}
    assert image_notes([RunSpec.parse(TINY), RunSpec.parse({**TINY, "student": drawn})]) == []
    assert image_notes([RunSpec.parse({**TINY, "student": drawn, "teacher": untaught})]) == []
