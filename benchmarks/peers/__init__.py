"""otjax beside its peers: the parts of `against_peers.py`."""
