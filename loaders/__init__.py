"""One adapter per loader under test; each turns a plan and a manifest into batches and never times itself."""

if not __name__.startswith("storagebench."):
    raise ImportError(
        f"the folder 'loaders' of the storagebench checkout was imported as {__name__!r}; "
        "hint: import storagebench.loaders, or run python outside the checkout (or with -P)"
    )
