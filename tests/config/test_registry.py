"""Names of plug-ins: found by entry point, refused where they are taken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_kd.config import registry
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS, PATHS, load_plugins
from ray_kd.plugin import Aggregator, register_aggregator
from tests.helpers import registries_restored

ROOT = Path(__file__).parents[2]
Write = Callable[..., None]

SOURCE = """
from ray_kd.plugin import Aggregator, AggregatorOptions, register_aggregator

class EqualOptions(AggregatorOptions):
    '''None of its own.'''

@register_aggregator("{name}")
class Equal(Aggregator):
    '''Not ray-kd's.'''
    Options = EqualOptions
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a plug-in of one file, installed with an entry point where one is asked for."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str, name: str, entry_point: bool = False) -> None:
        (tmp_path / f"{module}.py").write_text(SOURCE.format(name=name))
        if entry_point:
            info = tmp_path / f"{module}-1.5.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.5\n")
            (info / "entry_points.txt").write_text(f"[ray_kd.plugins]\nany = {module}\n")
        importlib.invalidate_caches()

    before = set(sys.modules)
    with registries_restored():
        yield write
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_a_name_of_ray_kd_is_refused_whatever_the_class_is_called(written: Write) -> None:
    ours = AGGREGATORS.get("equal")
    written("their_equal", "equal")
    with pytest.raises(UserError) as caught:
        load_plugins(["their_equal"])
    for part in ("'equal'", "their_equal.Equal", "ray_kd.aggregation.equal.Equal"):
        assert part in str(caught.value)
    assert AGGREGATORS.get("equal") is ours


def test_an_entry_point_is_loaded_and_one_whose_name_is_taken_is_refused(
    written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AGGREGATORS, "_loaded", {"built-in"})
    written("third_party", "third", entry_point=True)
    assert AGGREGATORS.get("third").__module__ == "third_party"
    assert [cls.__module__ for cls in AGGREGATORS.from_plugins()] == ["third_party"]
    written("fourth_party", "equal", entry_point=True)
    for _ in range(2):  # it goes on failing: a registry that is half loaded would answer wrongly
        AGGREGATORS._loaded.discard("plug-ins")
        with pytest.raises(UserError, match=r"(?s)fourth_party 1\.5.*ray_kd\.aggregation\.equal\.Equal"):
            AGGREGATORS.get("equal")


def test_an_entry_point_that_cannot_be_imported_is_named(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AGGREGATORS, "_loaded", {"built-in"})
    written("broken_party", "fifth", entry_point=True)
    (tmp_path / "broken_party.py").write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken_party 1\.5.*ZeroDivisionError"):
            AGGREGATORS.names()


def test_a_module_that_is_loaded_again_registers_its_class_again(written: Write) -> None:
    written("notebook_like", "sixth")
    load_plugins(["notebook_like"])
    first = AGGREGATORS.get("sixth")
    importlib.reload(sys.modules["notebook_like"])
    assert AGGREGATORS.get("sixth") is not first


def test_a_script_may_name_itself_as_a_plug_in(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``__main__`` and, in every worker and by ``plugins:``, under its own name: one class, one file."""
    written("own_script", "seventh")
    load_plugins(["own_script"])
    cls = AGGREGATORS.get("seventh")
    twin = type("Equal", (Aggregator,), {"__module__": "run_as_main", "Options": cls.Options})
    monkeypatch.setitem(sys.modules, "run_as_main", sys.modules["own_script"])
    register_aggregator("seventh")(twin)
    assert AGGREGATORS.get("seventh") is twin


def test_a_class_without_options_of_its_own_is_told_what_to_write() -> None:
    class Shared(AggregatorOptions):
        """Of another component already."""

        component_name = "equal"

    with pytest.raises(UserError, match="Options = MyOptions"):
        register_aggregator("eighth")(type("Eighth", (Aggregator,), {"Options": Shared}))


WITHOUT_PYTEST = """
import subprocess
import sys
sys.modules["pytest"] = None  # as if it were not installed
import ray_kd.plugin
assert not {"ray", "wandb"} & sys.modules.keys()
names = [name for name in ray_kd.plugin.__all__ if "Conformance" not in name]
missing = [name for name in names if not hasattr(ray_kd.plugin, name)]
assert not missing, missing
try:
    from ray_kd.plugin import PathConformance
except ImportError as error:
    print(error)
"""


def test_the_public_module_needs_no_pytest_and_its_suites_say_that_they_do() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYTEST], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the suites of ray_kd.plugin need pytest: pip install pytest\n"


def test_installed_packages_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key of every spec asks a registry: it must not read the environment's metadata again."""
    PATHS.get("nst")
    monkeypatch.setattr(registry, "entry_points", lambda: pytest.fail("it looked again"))
    monkeypatch.setattr("pkgutil.iter_modules", lambda path: pytest.fail("it looked again"))
    assert PATHS.get("nst").name == "nst"
    assert "nst" in PATHS.names()
