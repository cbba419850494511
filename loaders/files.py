"""What most training scripts do: a map-style torch DataLoader, one file a sample, one read a file, in worker processes."""

from __future__ import annotations

from storagebench.loaders.torch_workers import TorchRun
from storagebench.protocols import LoaderRun, LoadJob


class FilesLoader:
    """Reads with the store's own `read_into`: buffered, O_DIRECT or RWF_DONTCACHE on a local path, one GET an object on S3."""

    name = "files"

    def open(self, job: LoadJob) -> LoaderRun:
        return TorchRun(job, read_many=False)
