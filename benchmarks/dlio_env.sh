#!/bin/sh
# The environment of DLIO 2.0.0, the release on PyPI, for direct_vs_dlio.py:  sh benchmarks/dlio_env.sh DIR
# Its own requirements cannot be installed (nvidia-dali-cuda110 comes from another index), so they are picked by hand, and it is installed without them:
# pydftracer is pinned as in its metadata (2.x has no module dftracer.logger, and DLIO's fallback for that fails at once), tensorflow is imported even
# for PyTorch, and mpi4py wants the library of Open MPI, from apt (as root). Takes 2 minutes and 2.5 GB.
set -eu
dir=${1:?usage: dlio_env.sh DIR}
if ! command -v mpirun >/dev/null; then
    apt-get install -y --no-install-recommends openmpi-bin libopenmpi-dev
fi
python3 -m venv "$dir"
"$dir/bin/pip" install -q ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
"$dir/bin/pip" install -q --no-deps dlio-benchmark==2.0.0 pydftracer==1.0.2
"$dir/bin/pip" install -q mpi4py==4.1.2 hydra-core==1.3.8 omegaconf h5py==3.14.0 pandas==3.1.1 psutil Pillow numpy==2.4.6 tensorflow-cpu==2.21.0
OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "$dir/bin/dlio_benchmark" --help >/dev/null
echo "DLIO is ready: --dlio $dir"
