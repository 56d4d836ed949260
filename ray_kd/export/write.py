"""An export, written whole or not at all, and replayed before it is there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.faults import environment_fault
from ray_kd.config.names import printable
from ray_kd.data.base import Dataset
from ray_kd.data.batches import in_order
from ray_kd.data.create import create_dataset
from ray_kd.export import check
from ray_kd.export.choose import choose_run
from ray_kd.export.forms import FORMS, Raw, wanted_forms, write_forms
from ray_kd.export.own import Given, as_student, own_test, require_given
from ray_kd.export.readme import readme
from ray_kd.export.run import ToExport, read_run
from ray_kd.export.verify import replay, require_recorded, require_same_outputs
from ray_kd.storage import Store
from ray_kd.tasks import create_task
from ray_kd.training.evaluation import evaluate
from ray_kd.training.run_context import RunContext
from ray_kd.training.trained import trained_student
from ray_kd.version import __version__

ABOUT = "export.json"
SAMPLES, SAMPLE_BYTES = 32, 1 << 24
"""How many samples an export keeps at most, and about how many bytes of images."""
SLACK = {"cpu": check.TOLERANCE}
OTHER_SLACK = 1e-2
"""Scores closer than this, relative, are undecided: of a run measured on a processor like ours, and of one
measured on a GPU, whose TensorFloat-32 keeps ten bits."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Exported:
    """What was exported, and what replaying it found.

    Attributes:
        folder: where it lies.
        run: the run's identity.
        forms: those written; a program comes with weights that nobody else can build a network for.
        metric: the name of the run's figure on the test split, and that figure.
        differences: for each form the largest difference to the student's outputs, relative to the largest.
        samples: of the test split, all of which were replayed.
    """

    folder: Path
    run: str
    forms: tuple[str, ...]
    metric: tuple[str, float]
    differences: dict[str, float]
    samples: int


def export_run(
    storage: str | Path,
    which: str,
    to: str | Path,
    forms: Iterable[str] = ("safetensors", "torch.export"),
    *,
    best: bool = False,
    last: bool = False,
    student: nn.Module | None = None,
    test: Any = None,
    command: str = "",
) -> Exported:
    """Take a student out: write it in some forms, and replay the test split in a process without ray-kd.

    Args:
        storage: where its run lies.
        which: the run's identity or the beginning of it, or SWEEP, or SWEEP:CELL.
        to: a folder that is not there, is empty, or holds a former export of the same run.
        forms: some of safetensors, torch.export, onnx.
        best: of several students of a sweep, the one that was best on validation.
        last: the last weights, in place of those that were best on validation.
        student: of a run whose student was your own, a module as that one: the run's weights go into a copy.
        test: of a run whose datasets were your own, the test set.
        command: how the README says it was made; default: this call.

    Raises:
        UserError: no such run, one that cannot be exported, objects that are missing or not the run's, a
            folder that holds something else, or an export that does not give the run's outputs: nothing is
            left of it then.

    Example::

        export_run("results", "digits", "exported", ["onnx"], best=True)
    """
    store, forms = Store(storage), wanted_forms(forms)
    run = read_run(store, choose_run(store, which, best), last)
    folder = Path(to).expanduser().absolute()
    _require_room(folder, run.identity)
    given = Given(student, test)
    require_given(store, run, given, str(to))
    dataset = create_dataset(run.spec.dataset) if test is None else own_test(run, test, store)
    own = None if student is None else as_student(student)
    network = trained_student(run.spec, run.identity, dataset, store, run.file, own)
    if "safetensors" in forms and network.library_call() is None and "torch.export" not in forms:
        forms = [form for form in FORMS if form in (*forms, "torch.export")]
    raw = Raw(network).eval().requires_grad_(False)
    if run.spec.task.component_name not in check.METERS:
        _measure_here(run, raw, dataset, store)
    handed = "".join(f", {name}=..." for name in ("student", "test") if getattr(given, name) is not None)
    command = command or f"export_run({str(storage)!r}, {which!r}, {str(to)!r}, {forms}{handed})"
    with _whole(folder) as place, torch.no_grad():
        found = _write(run, raw, dataset, forms, command, place)
    apart = {form: float(result["difference"]) for form, result in found.items()}
    return Exported(folder, run.identity, tuple(forms), (run.metric, run.recorded), apart, len(dataset.test))


def _write(
    run: ToExport, raw: Raw, dataset: Dataset, forms: list[str], command: str, place: Path
) -> dict[str, dict[str, Any]]:
    """Write an export into a folder, and replay it; what was found form by form."""
    first = next(in_order(dataset.test, CPU))
    about = _about(run, dataset, raw, first["image"], forms)
    write_forms(raw, first["image"], forms, place)
    _write_samples(raw, first, place)
    shutil.copyfile(str(check.__file__), place / "check.py")
    _write_json(place, about)
    found = replay(place, (_with_outputs(raw, batch) for batch in in_order(dataset.test, CPU)))
    require_same_outputs(found, about["metric"])
    about["verified"] = {
        form: {key: result[key] for key in ("difference", "metric")} for form, result in found.items()
    }
    _write_json(place, about)
    (place / "spec.yaml").write_text(run.spec.to_yaml(), encoding="utf-8")
    text = readme(run.spec, about, run.paths, run.teachers, command)
    (place / "README.md").write_text(printable(text), encoding="utf-8")
    for file in place.iterdir():
        file.chmod(0o644)  # safetensors writes files that nobody else may read
    return found


def _measure_here(run: ToExport, raw: Raw, dataset: Dataset, store: Store) -> None:
    """Ask for a metric that ``check.py`` does not know in this process: it reads the outputs' head."""
    task = create_task(run.spec, dataset)
    figures = evaluate(raw.network, task, dataset.test, None, RunContext(store, CPU))
    moved = 0.0 if run.device in SLACK else check.POINT
    metric = {"name": run.metric, "recorded": run.recorded}
    require_recorded("the student", figures[run.metric], metric, moved)


def _about(run: ToExport, dataset: Dataset, raw: Raw, image: Tensor, forms: list[str]) -> dict[str, Any]:
    """What export.json says."""
    task = run.spec.task.component_name
    names, call = dataset.class_names_of(task), raw.network.library_call()
    channels, height, width = image.shape[1:]
    head = raw.network(image[:1]).head
    return {
        "run": run.identity,
        "name": run.spec.name,
        "task": task,
        "forms": forms,
        "files": {form: FORMS[form] for form in forms},
        "weights": {"which": "last" if run.file == "student" else "best", "epoch": run.epoch},
        "metric": {
            "name": run.metric,
            "recorded": run.recorded,
            "samples": len(dataset.test),
            "slack": SLACK.get(run.device, OTHER_SLACK),
        },
        "classes": dataset.classes_of(task),
        "class_names": None if names is None else list(names),
        "input": {
            "channels": channels,
            "height": height,
            "width": width,
            "mean": None if dataset.mean is None else list(dataset.mean),
            "std": None if dataset.std is None else list(dataset.std),
            "fit": getattr(getattr(dataset.test, "form", None), "fit", None),
        },
        "outputs": {name: list(values.shape[1:]) for name, values in raw(image[:1]).items()},
        "head": None if head is None else type(head).__name__,
        "library_call": None if call is None else asdict(call),
        "prefix": raw.prefix,
        "versions": {"ray_kd": __version__, "torch": torch.__version__},
    }


def _with_outputs(raw: Raw, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with the student's outputs in it."""
    kept = {name: values for name, values in batch.items() if name in ("image", "label", "mask")}
    return kept | {f"output.{name}": values for name, values in raw(batch["image"]).items()}


def _write_samples(raw: Raw, batch: dict[str, Tensor], place: Path) -> None:
    """The first samples with their outputs; of a detector also the boxes that its places start from."""
    count = max(1, min(SAMPLES, SAMPLE_BYTES // (4 * batch["image"][0].numel())))
    some = _with_outputs(raw, {name: values[:count] for name, values in batch.items()})
    save_file({name: values.contiguous() for name, values in some.items()}, place / "samples.safetensors")
    head = raw.network(batch["image"][:1]).head
    if head is not None:
        save_file({"priors": head.priors.contiguous()}, place / "priors.safetensors")


def _write_json(place: Path, about: dict[str, Any]) -> None:
    (place / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _require_room(folder: Path, identity: str) -> None:
    """Refuse a folder that holds something else than a former export of this run.

    Raises:
        UserError: says what lies there.
    """
    if "://" in str(folder) or ":/" in str(folder):
        raise UserError(f"export --to: expected a folder on a disk, got '{folder}'.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"export --to: '{folder}' is a file; expected a folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        earlier = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = None
    if earlier != identity:
        what = (
            f"an export of run {earlier}"
            if earlier
            else f"{len(list(folder.iterdir()))} files of another kind"
        )
        raise UserError(
            f"export --to: '{folder}' holds {what}; expected a folder that is empty, or holds an export of "
            f"run {identity}, which is written anew."
        )


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of ``folder`` at the end; on an error nothing is left.

    Raises:
        UserError: it cannot be written.
    """
    missing = [parent for parent in folder.parents if not parent.exists()]
    place: str | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.mkdtemp(prefix=f".{folder.name}.writing-", dir=folder.parent)
        os.chmod(place, 0o755)
        yield Path(place)
        if folder.exists():
            earlier = tempfile.mkdtemp(prefix=f".{folder.name}.earlier-", dir=folder.parent)
            os.replace(folder, earlier)
            os.replace(place, folder)
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            os.replace(place, folder)
    except BaseException as error:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) and environment_fault(error) is None:
            why = error.strerror or error
            raise UserError(
                f"export --to: cannot write '{folder}' ({why}); choose another folder."
            ) from error
        raise
