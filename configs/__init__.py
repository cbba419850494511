"""The workloads as YAML: what MLPerf says, with its source. Read by `storagebench.configfile`."""

if not __name__.startswith("storagebench."):
    raise ImportError(
        f"the folder 'configs' of the storagebench checkout was imported as {__name__!r}; "
        "hint: import storagebench.configs, or run python outside the checkout (or with -P)"
    )
