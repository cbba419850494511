"""The consumer that trains: `accelerator.Trainer` over torch. A step is the batch as tensors, forward, backward and the optimizer's step; after an epoch the
model is judged on the held-out split, and training ends at the target.

Several ranks train one model: torch's DistributedDataParallel averages their gradients over the process group that the ranks joined (gloo, also for tensors
on CUDA devices, which works wherever the ranks are, several on one device too; NCCL, for ranks that each have a device, is not used yet). Batch
normalisation takes each rank's own batch, as DistributedDataParallel leaves it; before an evaluation all ranks take rank 0's running means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.accelerator import Begun, Wake
from storagebench.clock import Clock
from storagebench.protocols import Batch
from storagebench.training.batches import Batches, normalised
from storagebench.training.heldout import HeldOut
from storagebench.training.models import Model, build, num_parameters
from storagebench.training.schedule import MOMENTUM, WEIGHT_DECAY, learning_rate
from storagebench.trainname import reaches
from storagebench.world import World

_EVALUATED_AT_ONCE: Final = 256


@dataclass(frozen=True)
class TrainJob:
    """What one rank trains. `classes` int64[num_samples]: the class of each sample of the dataset; `epochs` are those planned, which the schedule goes by;
    `target` the accuracy that ends the training, None: none does."""

    model: Model
    device: str
    seed: int
    learning_rate: float
    epochs: int
    batch_size: int
    classes: NDArray[np.int64]
    num_classes: int
    target: float | None


class TorchTrainer:
    """One rank's trainer. The clock is the run's."""

    def __init__(self, job: TrainJob, held_out: HeldOut, world: World, clock: Clock, trace: Any) -> None:
        """`trace`: where the records of `end_epoch` go."""
        import torch

        # One thread: the order of sums would depend on how many there are, and the cores are the loader's too. With it two runs of one seed that get the
        # same batches have the same weights, bit for bit, on a CPU.
        torch.set_num_threads(1)
        torch.manual_seed(job.seed)
        self.compute_ns = 0
        self.handoff_ns = 0
        self._torch, self._job, self._world, self._clock, self._trace = torch, job, world, clock, trace
        self._device = torch.device(job.device)
        height, width, _ = held_out.shape
        self._net = build(job.model, job.num_classes, height, width).to(self._device)
        self._trained = self._over_ranks()
        self._optimizer = torch.optim.SGD(self._net.parameters(), lr=job.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self._batches = Batches(torch, self._device, job.classes, held_out.shape, job.batch_size)
        self._held_out = torch.from_numpy(held_out.pixels).to(self._device)
        self._held_out_classes = torch.from_numpy(held_out.classes).to(self._device)
        self._batch: tuple[Any, Any] | None = None
        self._begin_epoch(0)
        trace.write({"kind": "model", **self._about(held_out)})

    def _over_ranks(self) -> Any:
        if self._world.place.world_size == 1:
            return self._net
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(self._net, device_ids=None if self._device.type == "cpu" else [self._device])

    def _about(self, held_out: HeldOut) -> Mapping[str, Any]:
        return {
            "model": self._job.model.name,
            "layers": self._job.model.layers,
            "parameters": num_parameters(self._net),
            "classes": self._job.num_classes,
            "device": self._job.device,
            "device_name": None if self._device.type == "cpu" else str(self._torch.cuda.get_device_name(self._device)),
            "seed": self._job.seed,
            "held_out_samples": held_out.num_samples,
            "torch": str(self._torch.__version__),
        }

    def _begin_epoch(self, epoch: int) -> None:
        self._net.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._job.learning_rate, epoch, self._job.epochs)
        self._loss_sum, self._samples, self._first_ns, self._last_ns = 0.0, 0, 0, 0

    # -- a step ---------------------------------------------------------------------------------------------------------------------------------------

    def begin(self, batch: Batch, batch_size: int, previous_end_ns: int, asked_ns: int, got_ns: int) -> Begun:
        """The batch as tensors on the device. What that takes is part of the wait for the data, and stands in `copy_s`."""
        begin_ns = self._clock.now_ns()
        self._batch = self._batches.take(batch)
        self._finish()
        end_ns = self._clock.now_ns()
        return Begun(end_ns, end_ns, round((end_ns - begin_ns) / 1e9, 9))

    def compute(self, begun: Begun) -> Begun:
        """Forward, backward, step; over when it returns, on the device too."""
        assert self._batch is not None
        (pixels, classes), self._batch = self._batch, None
        start_ns = self._clock.now_ns()
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._torch.nn.functional.cross_entropy(self._trained(normalised(self._torch, pixels)), classes)
        loss.backward()
        self._optimizer.step()
        self._finish()
        end_ns = self._clock.now_ns()
        self._loss_sum += float(loss.detach()) * len(classes)
        self._samples += len(classes)
        self._first_ns, self._last_ns = self._first_ns or start_ns, end_ns
        return Begun(start_ns, end_ns, begun.copy_s)

    def wait(self, begun: Begun, release_ns: int) -> Wake:
        """The compute is over; what the harness did since then ends the step."""
        now_ns = self._clock.now_ns()
        return Wake(now_ns, now_ns, 0, begun.due_ns)

    def _finish(self) -> None:
        if self._device.type != "cpu":
            self._torch.cuda.synchronize(self._device)

    # -- the end of an epoch ------------------------------------------------------------------------------------------------------------------------------

    def end_epoch(self, epoch: int) -> bool:
        """Evaluate, each rank its share, and write down what came of it; whether all are to stop: at the target, or where a loss is no number any more."""
        loss = self._loss_sum / self._samples if self._samples else math.nan
        finite = math.isfinite(loss)
        self._trace.write(
            {
                "kind": "trained",
                "epoch": epoch,
                "start_ns": self._first_ns,
                "end_ns": self._last_ns,
                "samples": self._samples,
                "loss": loss if finite else None,
            }
        )
        begin_ns = self._clock.now_ns()
        counted = self._world.gather([len(self._held_out), self._correct(), finite])
        end_ns = self._clock.now_ns()
        samples, correct = (sum(row[place] for row in counted) for place in (0, 1))
        accuracy = correct / samples
        reached = self._job.target is not None and reaches(accuracy, self._job.target)
        self._trace.write(
            {
                "kind": "eval",
                "epoch": epoch,
                "start_ns": begin_ns,
                "end_ns": end_ns,
                "samples": samples,
                "correct": correct,
                "accuracy": accuracy,
                "reached": reached,
                "weights_crc32c": self._weights(),
            }
        )
        self._begin_epoch(epoch + 1)
        return reached or not all(row[2] for row in counted)

    def _correct(self) -> int:
        """How many of this rank's share the model gets right."""
        torch, found = self._torch, 0
        self._net.eval()
        with torch.no_grad():
            if self._trained is not self._net:
                for buffer in self._net.buffers():
                    torch.distributed.broadcast(buffer, 0)
            for first in range(0, len(self._held_out), _EVALUATED_AT_ONCE):
                part = slice(first, first + _EVALUATED_AT_ONCE)
                best = self._net(normalised(torch, self._held_out[part])).argmax(dim=1)
                found += int((best == self._held_out_classes[part]).sum())
        return found

    def _weights(self) -> int:
        """Checksum of all weights, by which ranks and runs are compared; no time of the training."""
        checksum = 0
        for parameter in self._net.parameters():
            checksum = crc32c(parameter.detach().cpu().contiguous().numpy().tobytes(), checksum)
        return int(checksum)

    def close(self) -> None:
        self._batch = None
