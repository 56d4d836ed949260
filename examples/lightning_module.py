"""Distillation in Lightning: a LightningModule whose steps and epochs are a Distiller's.

    pip install lightning
    python examples/lightning_module.py

Lightning drives the loop, moves the batches and saves checkpoints. The Distiller takes the optimizer's steps,
so Lightning's own optimization is off; mixed precision and clipping are the Distiller's too. This is for one
device: for several, start the plain loop of docs/python.md with torchrun.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ray_kd import Distiller


class Distillation(lightning.LightningModule):
    """A student that learns from a teacher.

    Args:
        student: the network that trains; it alone is in ``state_dict``.
        lr: the learning rate that SGD begins with.
        **options: of the Distiller: teacher, paths, aggregation and so on.
    """

    def __init__(self, student: nn.Module, lr: float = 0.05, **options: Any) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.student, self.lr, self.options = student, lr, options
        self.resumed: dict[str, Any] | None = None

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        self.distiller = Distiller(self.student, steps=steps, device=self.device, **self.options)
        self.epochs = self.distiller.epochs(self.trainer.max_epochs)
        optimizer = self.distiller.optimizer(torch.optim.SGD, lr=self.lr, momentum=0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        }

    def on_train_start(self) -> None:
        if self.resumed is not None:
            self.distiller.load_state_dict(self.resumed)

    def on_train_epoch_start(self) -> None:
        next(self.epochs)  # ends the epoch before

    def on_train_end(self) -> None:
        next(self.epochs, None)

    def training_step(self, batch: list[Tensor], index: int) -> None:
        image, label = batch
        with self.distiller.step(self.optimizers()) as step:
            step({"image": image, "label": label})
        self.lr_schedulers().step()
        if index % self.trainer.log_every_n_steps == 0:  # to read a figure waits for the device
            self.log("train_loss", step.task_loss)
            self.log_dict({f"weight/{path}": weight for path, weight in step.weights.items()})

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        image, label = batch
        self.log("top1", (self.student(image).argmax(1) == label).float().mean())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["distiller"] = self.distiller.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.resumed = checkpoint["distiller"]


def network(width: int) -> nn.Sequential:
    """A small convolutional network for digits of 8x8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


def digits() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Handwritten digits to train on, and to validate on."""
    images, labels = load_digits(return_X_y=True)
    image = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    label = torch.tensor(labels)
    train, validation = (TensorDataset(image[a:b], label[a:b]) for a, b in ((0, 400), (1400, 1797)))
    return DataLoader(train, 50, shuffle=True), DataLoader(validation, 400)


def main(epochs: int = 20) -> None:
    """Train a teacher on labels alone, then a student with it; prints how good each is."""
    lightning.seed_everything(0)
    train, validation = digits()
    teacher, student = network(32), network(4)
    paths = ["soft_target", {"name": "attention_transfer", "weight": 10}]
    taps = {"student": ["1", "3"], "teacher": ["1", "3"]}
    modules = [
        Distillation(teacher),
        Distillation(
            student, teacher=teacher, paths=paths, aggregation="adaptive", taps=taps, image_shape=(1, 8, 8)
        ),
    ]
    for module in modules:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            log_every_n_steps=4,
        )
        trainer.fit(module, train, validation)
        print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
