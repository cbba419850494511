"""Plain webdataset: the library's own pipeline and loader, samples batched in the workers, real bytes handed over as one tensor a batch."""

import sys
from glob import glob

import numpy as np
import torch
import webdataset as wds
from measure import measure


def stack(samples):
    """The records of a batch in one array, so that a batch crosses in one shared memory."""
    records = [next(value for name, value in sample.items() if name != "cls" and not name.startswith("__")) for sample in samples]
    return torch.from_numpy(np.stack([np.frombuffer(record, np.uint8) for record in records]))


def main(folder, batch, workers, prefetch, epochs, buffer):
    shards = sorted(glob(f"{folder}/shards/**/*.tar", recursive=True))
    data = (
        wds.WebDataset(shards, shardshuffle=len(shards), detshuffle=True, seed=1, workersplitter=wds.split_by_worker)
        .shuffle(buffer // max(workers, 1))
        .batched(batch, collation_fn=stack)
    )
    loader = wds.WebLoader(data, batch_size=None, num_workers=workers, prefetch_factor=prefetch, persistent_workers=True)

    def epoch(_number):
        samples = num_bytes = 0
        for array in loader:
            samples += len(array)
            num_bytes += array.nbytes
        return samples, num_bytes

    measure(epoch, epochs)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
