"""Checks and times on a GPU: the parts of `gpu_engine.py`."""
