"""Relational paths under real process groups: a linear student on two ranks learns what one learns."""

from __future__ import annotations

import os
import socket
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_kd.outputs import Outputs
from ray_kd.paths import create_path
from ray_kd.paths.gather import all_rows, own_rows

NAMES = ["rkd", "similarity", "correlation", "pkt", "dist", "crd"]


def gradients(rank: int, world: int) -> dict[str, Tensor]:
    """Loss and the student's gradient of each path on this rank's share, averaged over ranks."""
    torch.manual_seed(0)
    student = nn.Conv2d(3, 4, 1).double()
    image, theirs, logits = torch.rand(8, 3, 2, 2), torch.rand(8, 5, 2, 2), torch.randn(8, 4)
    label, sample = torch.arange(8) % 3, torch.arange(8) * 7
    share = slice(rank, None, world)
    teacher = Outputs((theirs[share].double(),), logits[share].double())
    batch = {"label": label[share], "sample": sample[share]}
    found: dict[str, Tensor] = {}
    for name in NAMES:
        path = create_path(name, student_channels=(4,), teacher_channels=(5,)).double()
        feature = student(image[share].double())
        ours = Outputs((feature,), feature.mean((2, 3)))
        (loss,) = path(ours, path.target(teacher), batch).values()
        values = [loss.detach().clone(), *torch.autograd.grad(loss, list(student.parameters()))]
        for index, value in enumerate(values):
            if world > 1:
                dist.all_reduce(value)
            found[f"{name}/{index}"] = value / world
    return found


def run(rank: int, port: int, file: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = gradients(rank, 2)
    rows = torch.arange(3) + 10 * rank
    assert torch.equal(own_rows(all_rows(rows)), rows)
    if rank == 0:
        torch.save(found, file)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: FilePath) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = str(tmp_path / "found.pt")
    spawn: Any = torch.multiprocessing.spawn
    spawn(run, args=(port, file), nprocs=2)
    found, wanted = torch.load(file), gradients(0, 1)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, msg=key)


def test_one_rank_gathers_nothing() -> None:
    values = torch.rand(3, 2, requires_grad=True)
    assert all_rows(values) is values
    assert own_rows(values) is values
