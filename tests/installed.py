"""Which versions of the dependencies the tests run with, for what older ones cannot do."""

from importlib import metadata

from packaging.version import Version


def older(name: str, version: str) -> bool:
    """Return whether the installed version of a distribution is older than this one."""
    return Version(metadata.version(name)) < Version(version)
