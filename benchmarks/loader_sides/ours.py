"""One of our loaders over a dataset, measured as the plain programs are: the adapter that `run` uses, with no compute and nothing verified."""

import sys

from measure import measure

from storagebench.manifest import load_dataset
from storagebench.protocols import LoadJob
from storagebench.registry import open_loader
from storagebench.storage import open_spec, parse_url


def main(name, decode, url, batch, workers, prefetch, epochs, handover_bytes, *options):
    store = open_spec(parse_url(url, dict(option.split("=", 1) for option in options)))
    dataset, spec = load_dataset(store), store.spec
    store.close()
    job = LoadJob(
        spec,
        dataset,
        rank=0,
        world_size=1,
        batch_size=int(batch),
        keep_remainder=True,
        num_workers=int(workers),
        prefetch_batches=int(prefetch),
        decode=decode,
        handover_bytes_per_sample=int(handover_bytes),
    )
    run = open_loader(name).open(job)

    def epoch(number):
        samples = num_bytes = 0
        run.start(number)
        while (some := run.next()) is not None:
            samples += some.num_samples
            num_bytes += some.handover_bytes
        run.drain()
        return samples, num_bytes

    try:
        measure(epoch, int(epochs))
    finally:
        run.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
