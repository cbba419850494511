"""Saved runs -> what people and programs read: text, JSON, CSV, one HTML page.

This room only shows what `storagebench.metrics` counted and `storagebench.checks` found. It must not judge anew, change or write a run folder, or
import an engine, loader, dataset, storage, world or torch: a saved run is reported on a laptop. Unknown is shown as `-`, never as 0.
"""
