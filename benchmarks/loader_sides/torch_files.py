"""Plain torch DataLoader over npz or npy files, as in any tutorial: numpy.load in the dataset, default collate, real arrays handed over."""

import sys
from glob import glob

import numpy as np
import torch
from measure import measure
from torch.utils.data import DataLoader, Dataset


class Files(Dataset):
    """One file a sample."""

    def __init__(self, folder):
        self.paths = sorted(glob(f"{folder}/shards/**/*.np[yz]", recursive=True))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        if path.endswith(".npy"):
            return torch.from_numpy(np.load(path))
        with np.load(path) as archive:
            return torch.from_numpy(archive["x"])


class CroppedFiles(Files):
    """The first 2 MiB of each array, as unet3d crops."""

    def __getitem__(self, index):
        return super().__getitem__(index)[: 2 * 2**20]


class RawFiles(Files):
    """The leanest form: the file's bytes as they are, with no parsing."""

    def __getitem__(self, index):
        return torch.from_numpy(np.fromfile(self.paths[index], dtype=np.uint8))


def main(kind, folder, batch, workers, prefetch, epochs):
    loader = DataLoader(
        {"numpy": Files, "crop": CroppedFiles, "raw": RawFiles}[kind](folder),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
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
