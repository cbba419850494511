"""One file per format, the deterministic payload, and the importers of real data. Formats do no I/O: bytes in, bytes out."""

if not __name__.startswith("storagebench."):
    raise ImportError(
        f"the folder 'datasets' of the storagebench checkout was imported as {__name__!r}; "
        "hint: import storagebench.datasets, or run python outside the checkout (or with -P)"
    )
