"""The processes that belong to the cluster under test."""

import ipaddress

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


def open_ports(process: psutil.Process) -> dict[str, list[str]]:
    """Addresses that are not loopback where a process or its children listen, by owner."""
    found: dict[str, list[str]] = {}
    for one in (process, *process.children(recursive=True)):
        try:
            for socket in one.net_connections("tcp"):
                address = ipaddress.ip_address(socket.laddr.ip)
                mapped = getattr(address, "ipv4_mapped", None)
                if socket.status == psutil.CONN_LISTEN and not (mapped or address).is_loopback:
                    owner = " ".join(one.cmdline()).strip()
                    found.setdefault(owner, []).append(f"{address}:{socket.laddr.port}")
        except psutil.NoSuchProcess:
            continue
    return found
