"""Command processes of one run on several hosts: how they find each other, agree, tell each other's death, and gather their traces at member 0.

A *member* is one `storagebench` command that a launcher (torchrun, srun, mpirun, Kubernetes) started. Nothing here starts processes on other hosts, carries
commands or reads datasets: a member does what its own command line says.
"""
