"""The processes that belong to the cluster under test."""

import psutil


def processes(title: str) -> list[psutil.Process]:
    """The processes of our own cluster whose command line has ``title`` in it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
