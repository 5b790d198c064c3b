"""The notebooks, one file a page; :mod:`bptt.lab` says how one is made."""
