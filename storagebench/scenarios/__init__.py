"""LoadGen's arithmetic without a clock and without I/O: which queries are issued when, how many are needed, and whether a result is VALID.

LoadGen is MLPerf Inference's load generator (mlcommons/inference, `loadgen/`; package `mlcommons-loadgen` 6.0.17). What is here was worked out from its
behaviour and is held against the package itself (`tests/truth/test_loadgen.py`). It reads no storage and judges numbers that others measured.
"""
