"""How much of the machine's memory is left."""

import os
import re
from pathlib import Path


def available_memory() -> int:
    """Bytes that programs can still take: on Linux with what the system would give up for them (cached files),
    elsewhere the free pages, or half of all where nobody counts those."""
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.exists() else None
    if found:
        return 1024 * int(found[1])
    page = os.sysconf("SC_PAGE_SIZE")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * page
    return os.sysconf("SC_PHYS_PAGES") * page // 2
