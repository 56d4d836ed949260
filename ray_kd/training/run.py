"""Training: one run from its first step, or from its saved state, to its summary.

The same object trains in this process, in a Tune actor and in every worker of Ray Train. It is an iterator
over epochs, so that its caller can read each epoch's record, stop, or continue.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ray_kd.config.ending import Ending, Interrupted, ending_of, reason_of
from ray_kd.config.errors import UserError
from ray_kd.config.faults import environment_fault
from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.data.loading import Loader
from ray_kd.models.compiled import load_own_state
from ray_kd.storage import Lock
from ray_kd.storage.leftovers import clean
from ray_kd.training.build import Parts, build, step_key
from ray_kd.training.checkpoints import StoreCheckpoints
from ray_kd.training.compiling import as_written
from ray_kd.training.distributed import agree
from ray_kd.training.epoch_summary import CHECK_EVERY, epoch_means, require_finite, validated
from ray_kd.training.evaluation import evaluate
from ray_kd.training.loaders import make_batches, make_loader
from ray_kd.training.object_records import Own, describe_code, require_same
from ray_kd.training.object_weights import go_on, take_found
from ray_kd.training.preflight import check_parts
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.records import Records, describe_data, describe_environment, now
from ray_kd.training.run_context import RunContext
from ray_kd.training.step import Step


class Training:
    """One run.

    Args:
        cache: datasets and teachers that this process keeps from run to run; default: none.
        own: a user's objects, described, in place of what ``spec`` does not name.
        identity: overrides the spec's identity (needed when ``own`` changes what is trained).
        directory: where the run is written, from ``distill.begin_anew``; default: ``runs/<identity>``.
        on_wait: called with a sentence while another process trains the same run; default: the log.

    Attributes:
        lock: keeps others from training the run, which writes no more without it; ``epochs`` acquires it.
        stop_requested: set it from anywhere; the run saves its state at the next step and raises Interrupted.
    """

    def __init__(
        self,
        spec: RunSpec,
        context: RunContext,
        cache: ProcessCache | None = None,
        own: Own | None = None,
        identity: str | None = None,
        directory: str | None = None,
        *,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.cache = cache or ProcessCache()
        self.identity = identity or spec.identity()
        self.directory = directory or f"runs/{self.identity}"
        lock = Lock(context.store, f"runs/{self.identity}/lock", on_wait=on_wait, what=f"run '{spec.name}'")
        self.lock = lock if context.leads else None
        context = replace(context, store=context.store.guarded(lock.require))
        self.spec, self.context, self.own = spec, context, own
        self.records = Records(context.store, self.directory)
        self.checkpoints = context.checkpoints or StoreCheckpoints(context.store, self.directory)
        self.stop_requested = context.stop
        self._parts: Parts | None = None
        self._step: Step | None = None
        self._loader: Loader | None = None
        self.epoch, self.seconds, self.started = 0, 0.0, now()
        self._begin = 0.0
        self.last: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.best_state: dict[str, Tensor] = {}
        self._means: dict[str, float] | None = None
        self._error: UserError | None = None

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train; yields each epoch's record after it is written.

        Raises:
            TrainingFailed: a loss is no longer finite.
            UserError: the run cannot be set up, or its records cannot be written.
            Interrupted: ``stop_requested`` was set.
        """
        try:
            if self.lock is not None:
                if not self.lock.held:
                    self._lead(self.lock.acquire)
                clean(self.context.store, (self.directory, f"{self.directory}/checkpoints"))
                self._lead(Records(self.context.store, f"runs/{self.identity}").take_place)
            self._must_stop()
            require_same(self.context.store, self.directory, self.spec, self.own)
            if self.records.summary() is None:
                torch.set_num_threads(self.spec.training.threads)
                yield from self._train()
            else:
                take_found(self.own, self.context.store, self.directory)
        except BaseException:  # GeneratorExit too: the caller gave up
            self._stop_loading()
            raise
        finally:
            if self.lock is not None:
                self.lock.release()

    def _train(self) -> Iterator[dict[str, Any]]:
        parts = self._parts = build(self.spec, self.context, self.cache, self.own)
        training, context = self.spec.training, self.context
        self._loader = make_loader(self.spec, parts, context)
        batches = make_batches(self.spec, parts, context, self._loader)
        step = self._step = Step(self.spec, parts, context, batches.steps)
        step.module.train()
        first = self._resume(step)
        if context.world == 1 and not step.taken and self.records.summary() is not None:
            self._parts = None  # another process has ended the run and deleted its state meanwhile
            return
        if not step.taken:
            check_parts(self.spec, parts, context, self.cache, self.own)
        else:
            go_on(self.own, context.store, self.directory)
        if step.taken and parts.aggregator.probes:
            batch = step.ready(batches.before(self.epoch, first), parts.targets.targets)
            targets = parts.targets.targets(batch)
            step.corrupt(batch, targets, step.taken - 1)
            step.remember(batch, targets)
        environment = {**describe_environment(context.device, step.precision), "workers": context.world}
        made = {
            **(self.own.described if self.own is not None else {}),
            **describe_code(self.spec, parts.task.classes, parts.dataset.channels),
        }
        data = describe_data(parts.dataset, parts.task.name)
        self._lead(lambda: self.records.start(self.spec, environment, self.epoch, data, made))
        self._must_stop()
        batches.announce(self.epoch, first, training.epochs)
        while self.epoch < training.epochs:
            self._begin = time.perf_counter()
            step.begin_epoch(self.epoch, self._means, resumed=first > 0)
            self._run_epoch(batches, parts, step, first)
            first = 0
            yield self._end_epoch(parts, step)

    def _stop_loading(self) -> None:
        if self._step is not None and self._step.compiled is not None:
            self._step.compiled.release()
        if self._loader is not None:
            self._loader.close()

    def _run_epoch(self, batches: Batches, parts: Parts, step: Step, first: int) -> None:
        seed, rank, device = self.spec.seed, self.context.rank, self.context.device
        every = self.spec.checkpoints.every_steps
        for index, batch in enumerate(batches.epoch(self.epoch, first), start=first):
            torch.default_generator.manual_seed(step_key(seed, step.taken, rank))
            if device.type == "cuda":
                torch.cuda.manual_seed(step_key(seed, step.taken, rank))
            batch = step.ready(batch, parts.targets.targets)
            step(batch, parts.targets.targets(batch))
            check = step.taken % CHECK_EVERY == 0
            if check:
                require_finite(step, self.epoch)
            last = index + 1 == batches.steps
            if every is not None and step.taken % every == 0 and not last:
                self._save(step, None)
            if not last and (check or self.context.world == 1) and self._must_stop():
                self._save(step, None)
                self._leave(f"stopped in epoch {self.epoch + 1} after {step.taken} steps")

    def _must_stop(self) -> bool:
        """Whether any rank was asked to stop; several ranks check rarely, since they communicate."""
        return agree(self.stop_requested.is_set(), self._error, self.context.world, self.context.device)

    def _lead(self, write: Callable[[], object]) -> None:
        """Call ``action`` on rank 0; the other ranks learn of its error (a full disk) at the next check."""
        if self.context.leads:
            try:
                write()
            except (UserError, OSError) as error:
                self._error = environment_fault(error) or (error if isinstance(error, UserError) else None)
                if self.context.world == 1 or self._error is None:
                    raise

    def _leave(self, reason: str) -> NoReturn:
        """Save the state and raise Interrupted."""
        raise self._error or Interrupted(reason)

    def _end_epoch(self, parts: Parts, step: Step) -> dict[str, Any]:
        require_finite(step, self.epoch)
        training = self.spec.training
        self.epoch += 1
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "step": step.taken,
            "learning_rate": step.optimizers[0].param_groups[0]["lr"],
        }
        steps = step.taken - (self.epoch - 1) * step.steps_per_epoch
        means, rows = epoch_means(step, self.epoch, steps)
        self._means = {row["path"]: row["loss"] for row in rows}
        train_loss = means[0] * training.task_weight + sum(row["loss"] * row["weight"] for row in rows)
        record["train"] = {"loss": train_loss, "task_loss": means[0]}
        if self.epoch % training.evaluate_every == 0 or self.epoch == training.epochs:
            record |= step.metrics("val", partial(self._evaluate, parts, "validation"))
            self._note_best(parts, step, record)
        elapsed = time.perf_counter() - self._begin
        self.seconds += elapsed
        record["seconds"] = round(elapsed, 4)
        self.last = record
        self._lead(lambda: self.records.epoch(record, rows))
        if self.context.leads and self.context.track is not None:
            self.context.track.epoch(record, rows)
        every = self.spec.checkpoints.every_epochs
        done = self.epoch == training.epochs
        stopping = self._must_stop() and not done
        if (every is not None and self.epoch % every == 0) or stopping or done:
            self._save(step, record)
        if stopping:
            self._leave(f"stopped after epoch {self.epoch}")
        return record

    def _evaluate(self, parts: Parts, name: str) -> dict[str, float]:
        predictions = parts.judge(name) if parts.judge is not None else None
        split = getattr(parts.dataset, name)
        return evaluate(parts.student, parts.task, split, predictions, self.context, self._loader)

    def _note_best(self, parts: Parts, step: Step, record: dict[str, Any]) -> None:
        value = record["val"][parts.task.monitor]
        known = self.best.get("val", {}).get(parts.task.monitor)
        better = known is None or (value > known if parts.task.mode == "max" else value < known)
        if better:
            self.best = {"epoch": self.epoch, **validated(record)}
            self.best_state = step.weights()

    def _save(self, step: Step, record: dict[str, Any] | None) -> None:
        """Save the state, with the epoch's record at the end of an epoch; the time so far counts too."""
        state = {
            "identity": self.identity,
            "epoch": self.epoch,
            "seconds": self.seconds + (time.perf_counter() - self._begin if record is None else 0.0),
            "started": self.started,
            "last": copy.deepcopy(self.last),
            "best": copy.deepcopy(self.best),
            "best_state": self.best_state,
            "means": self._means,
            **step.state(),
        }
        if self.context.checkpoints is None:
            return self._lead(lambda: self.checkpoints.save(state, record))
        self.checkpoints.save(state, record)  # every rank takes part

    def _resume(self, step: Step) -> int:
        """Load the newest state, if any; returns the step within the epoch to resume from."""
        state = self.checkpoints.load()
        if state is None:
            return 0
        if state.get("identity") != self.identity:
            raise UserError(
                f"the checkpoint of {self.directory} belongs to another run ({state.get('identity')}); "
                "pass --fresh to start over."
            )
        step.load_state(state)
        self.epoch, self.seconds, self.started = state["epoch"], state["seconds"], state["started"]
        self.last, self.best, self.best_state = state["last"], state["best"], state["best_state"]
        self._means = state["means"]
        return step.taken - self.epoch * step.steps_per_epoch

    def finish(self) -> dict[str, Any]:
        """Evaluate on test with the last and the best-on-validation weights; write weights and summary.

        Returns:
            The summary; that of the earlier run if a run of this identity had ended already.
        """
        earlier = self.records.summary()
        if earlier is not None and self._parts is None:
            return earlier
        parts, step = self._parts, self._step
        if parts is None or step is None or self.epoch < self.spec.training.epochs:
            raise RuntimeError("finish() comes after epochs() has ended")
        last_state = step.weights()
        summary = self._summary(Ending.FINISHED, None)
        tested = step.metrics("test", partial(self._evaluate, parts, "test"))
        summary["last"] = {"epoch": self.epoch, **validated(self.last), **tested}
        load_own_state(parts.student, self.best_state)
        with as_written(step.compiled):
            summary["best"] = {**self.best, "test": self._evaluate(parts, "test")}
        load_own_state(parts.student, last_state)
        if self.context.leads:
            self.records.weights("student.safetensors", safetensors_bytes(last_state))
            self.records.weights("best.safetensors", safetensors_bytes(self.best_state))
        return self._end(summary)

    def stop(self, reason: str) -> dict[str, Any]:
        """End the run early for a scheduler: without test metrics, and left out of significance tests."""
        summary = self._summary(Ending.STOPPED, reason)
        summary["last"] = {"epoch": self.epoch, **validated(self.last), "test": None}
        summary["best"] = {**self.best, "test": None} if self.best else None
        return self._end(summary)

    def fail(self, error: BaseException) -> dict[str, Any]:
        """End the run as failed, with the reason in the summary and the traceback in ``error.txt``.

        A fault of the machine does not end a run: nothing is written, and the same command resumes it.
        """
        summary = self._summary(ending_of(error), reason_of(error))
        if summary["status"] == Ending.UNFINISHED:
            self._stop_loading()
            return summary
        return self._end(summary, "".join(traceback.format_exception(error)))

    def _summary(self, ending: Ending, reason: str | None) -> dict[str, Any]:
        student = self._parts.student if self._parts else None
        return {
            "identity": self.identity,
            "name": self.spec.name,
            "status": ending.value,
            "reason": reason,
            "epochs": self.epoch,
            "steps": self._step.taken if self._step else 0,
            "seconds": round(self.seconds, 3),
            "started": self.started,
            "monitor": self._parts.task.monitor if self._parts else None,
            "mode": self._parts.task.mode if self._parts else None,
            "parameters": sum(p.numel() for p in student.parameters()) if student is not None else None,
            "last": None,
            "best": None,
            **({"compiled": self._step.compiled.told} if self._step and self._step.compiled else {}),
        }

    def _end(self, summary: dict[str, Any], error: str | None = None) -> dict[str, Any]:
        self._stop_loading()
        if self.context.leads:
            summary = self.records.finish(summary, error)
            if isinstance(self.checkpoints, StoreCheckpoints):
                self.checkpoints.discard()
            self.records.take_place()
            if self.context.track is not None:
                self.context.track.finish(summary)
        return summary
