"""scapy, writing what it sniffs: sniff.py INTERFACE FILE [FILTER]. SIGTERM ends it in good order."""

import signal
import sys

from scapy.all import conf, sniff
from scapy.utils import PcapWriter

conf.bufsize = 212992  # what a receive buffer may hold by default
interface, file, *rest = sys.argv[1:]
filter = rest[0] if rest else None
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with PcapWriter(file, sync=True) as writer:
    iface = None if interface == "any" else interface
    sniff(iface=iface, filter=filter, store=False, prn=writer.write)
