"""The same job in torchdistill (https://github.com/yoshitomo-matsubara/torchdistill), an optional dependency.

The configuration is its CIFAR-10 KD sample's and the loop is its image classification example's, with its meters.
Its weights of the two losses, its temperature and the data are this job's. The teacher is put in eval mode here,
because it leaves that to its caller.
"""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import torch
from torch.utils.data import RandomSampler

from measure.job import HARD, SOFT, TEMPERATURE, Job
from measure.loops import device
from measure.rounds import Turns


def installed() -> bool:
    return importlib.util.find_spec("torchdistill") is not None


def configuration(job: Job) -> dict[str, Any]:
    """What one would write in YAML."""
    loss = {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": TEMPERATURE,
        "alpha": HARD,
        "beta": SOFT,
        "reduction": "batchmean",
    }
    return {
        "log_freq": 50,
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": job.batch_size, "num_workers": job.workers},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": job.learning_rate, "momentum": 0.9}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def by_torchdistill(job: Job, turns: Turns) -> None:
    """Train with its ``DistillationBox``."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.misc.log import MetricLogger, SmoothedValue, set_basic_log_config

    set_basic_log_config()
    torch.manual_seed(0)
    place = device()
    box = get_distillation_box(
        job.teacher(), job.student(), {"train": job.dataset()}, configuration(job), place, None, False, 1
    )
    for epoch in range(10**6):
        turns.wait()
        box.pre_epoch_process(epoch=epoch)
        meters = MetricLogger(delimiter="  ")
        meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        meters.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        batches = meters.log_every(box.train_data_loader, 50, f"Epoch: [{epoch}]")
        for index, (images, labels, extra) in enumerate(batches):
            begun = time.time()
            images, labels = images.to(place), labels.to(place)  # noqa: PLW2901
            loss = box.forward_process(images, labels, extra)
            box.post_forward_process(loss=loss)
            meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            meters.meters["img/s"].update(len(images) / (time.time() - begun))
            turns.step_done(index)
        box.post_epoch_process()
