"""The memory of CIRKD: bounded, balanced over classes, the newest kept, the same on two ranks as on one."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.outputs import IGNORE
from ray_kd.paths import Path, create_path
from ray_kd.paths.queues import Queues, place_in_run, regions_and_pixels
from ray_kd.testing.scenes import SCENES, Scene, leaves, on_two_ranks


def numbered(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def test_each_class_keeps_its_newest() -> None:
    queues = Queues(7, 1)  # three rings of two, one row to spare
    queues.push(numbered(10, 20, 11, 12), torch.tensor([0, 2, 0, 0]), 3)
    assert sorted(queues.filled(3).flatten().tolist()) == [11, 12, 20]
    queues.push(numbered(21, 22, 13), torch.tensor([2, 2, 0]), 3)
    assert sorted(queues.filled(3).flatten().tolist()) == [12, 13, 21, 22]
    queues.push(numbered(), torch.tensor([], dtype=torch.long), 3)
    assert len(queues.filled(3)) == 4


def test_places() -> None:
    assert place_in_run(torch.tensor([2, 2, 5, 5, 5, 9])).tolist() == [0, 1, 0, 1, 2, 0]


def test_regions_are_means_and_pixels_are_spread() -> None:
    maps = torch.arange(24.0).view(2, 1, 3, 4)
    classes = torch.full((2, 3, 4), IGNORE)
    classes[0, :2], classes[0, 2, 0], classes[1, 0, 0] = 1, 0, 1
    (means, of), (pixels, kinds) = regions_and_pixels(maps, classes, 3, 4)
    assert (of.tolist(), means.flatten().tolist()) == ([0, 1, 1], [8, 3.5, 12])
    assert (kinds.tolist(), pixels.flatten().tolist()) == ([0, 1, 1, 1, 1, 1], [8, 0, 2, 4, 6, 12])


def test_two_ranks_remember_what_one_does() -> None:
    whole = SCENES["segmentation"](dtype=torch.float64).as_teacher()
    whole.student = leaves(whole.change(whole.student, lambda values: values + values.flip(0)), True)
    halves = [whole.rows(slice(0, None, 2)), whole.rows(slice(1, None, 2))]
    widths = whole.teacher_channels
    paths = [
        create_path(
            "cirkd_memory", student_channels=widths, teacher_channels=widths, adapter=None, pixels=256
        ).double()
        for _ in range(3)
    ]

    def steps(path: Path, scene: Scene) -> Tensor:
        target = path.target(scene.teacher)
        for _ in range(3):
            (loss,) = path(scene.student, target, scene.batch).values()
        loss.backward()
        return loss.detach()

    wanted = steps(paths[0], whole)
    losses = on_two_ranks(lambda rank: steps(paths[1 + rank], halves[rank]))
    assert wanted > 1e-3
    torch.testing.assert_close(torch.stack(losses).mean(), wanted)
    for rank in range(2):
        ours, theirs = (scene.student.features[-1].grad for scene in (whole, halves[rank]))
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(theirs / 2, ours[rank::2])
        for one, other in zip(paths[0].buffers(), paths[1 + rank].buffers(), strict=True):
            torch.testing.assert_close(other, one)
