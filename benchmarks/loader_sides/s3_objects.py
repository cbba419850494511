"""Plain torch DataLoader over S3 objects through s3fs at its best settings: one batched `cat` a batch, one GET an object, no HEAD."""

import os
import sys

import numpy as np
import torch
from measure import measure
from s3fs import S3FileSystem
from torch.utils.data import DataLoader, Dataset


class Objects(Dataset):
    """Whole objects; the index is a batch of numbers. `together`: all objects of a batch in one `cat`, else one after another."""

    def __init__(self, bucket, endpoint, together):
        self.endpoint, self.together, self.fs = endpoint, together, None
        self.keys = sorted(self.open().find(f"{bucket}/shards"))

    def open(self):
        return S3FileSystem(
            endpoint_url=self.endpoint,
            max_concurrency=1,
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={"max_pool_connections": 128, "s3": {"addressing_style": "path"}},
        )

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        if self.fs is None:
            self.fs = self.open()  # in the worker
        keys = [self.keys[number] for number in index]
        found = self.fs.cat(keys) if self.together else {key: self.fs.cat_file(key) for key in keys}
        return torch.from_numpy(np.stack([np.frombuffer(found[key], np.uint8) for key in keys]))


def main(kind, bucket, batch, workers, prefetch, epochs):
    data = Objects(bucket, os.environ["AWS_ENDPOINT_URL_S3"], kind == "batched")
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), batch, drop_last=False)
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a forked child would inherit the event loop's thread, dead
    )

    def epoch(_number):
        samples = num_bytes = 0
        for array in loader:
            samples += len(array)
            num_bytes += array.nbytes
        return samples, num_bytes

    measure(epoch, epochs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
