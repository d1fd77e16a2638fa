"""The examples' tests run where the packages of their tasks are (`make test-examples`); elsewhere they stay out."""

from importlib.util import find_spec

if not all(map(find_spec, ("miniworld", "panda_gym"))):
    collect_ignore_glob = ["test_*.py"]
