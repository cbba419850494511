"""One file per verb: parse, look up, inject, call one function. No arithmetic and no I/O of their own beyond printing."""
