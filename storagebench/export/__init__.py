"""A run as what starts it elsewhere: manifests for Kubernetes and Kubeflow, a script for Slurm. Nothing here reaches a cluster, and no secret is ever written.

`asked` is the run, `place` where it is to be started, `pod` the one builder of the pod that all kinds share; one file for each kind; `targets` is the table of them.
"""
