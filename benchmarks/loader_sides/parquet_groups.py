"""Plain pyarrow: threads that read whole row groups in a shuffled order, a few ahead, and batches cut from a shuffle buffer."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import islice, pairwise

import numpy as np
import pyarrow.parquet as pq
from measure import measure


def read(path, metadata, group):
    """The records of a row group as views, without a copy."""
    column = pq.ParquetFile(path, metadata=metadata).read_row_group(group, columns=["payload"], use_threads=False).column(0)
    views = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        bounds = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        memory = memoryview(data)
        views += [memory[low:high] for low, high in pairwise(bounds)]
    return views


def records(units, threads, ahead):
    """The records of all row groups, some of which are read ahead."""
    with ThreadPoolExecutor(threads) as pool:
        todo = iter(units)
        reading = [pool.submit(read, *unit) for unit in islice(todo, ahead)]
        while reading:
            yield from reading.pop(0).result()
            reading += [pool.submit(read, *unit) for unit in islice(todo, 1)]


def shuffled(source, size):
    """A shuffle buffer."""
    source, rng = iter(source), random.Random(1)
    held = list(islice(source, size))
    for record in source:
        slot = rng.randrange(len(held))
        yield held[slot]
        held[slot] = record
    rng.shuffle(held)
    yield from held


def main(folder, batch, threads, ahead, epochs, buffer):
    footers = {path: pq.ParquetFile(path).metadata for path in sorted(glob(f"{folder}/shards/**/*.parquet", recursive=True))}
    units = [(path, footer, group) for path, footer in footers.items() for group in range(footer.num_row_groups)]

    def epoch(number):
        samples = num_bytes = 0
        stream = shuffled(records(random.Random(number).sample(units, len(units)), threads, ahead), buffer)
        while some := list(islice(stream, batch)):
            samples += len(some)
            num_bytes += sum(map(len, some))
        return samples, num_bytes

    measure(epoch, epochs)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
