"""scapy, writing what it sniffs: sniff.py INTERFACE FILE. SIGTERM ends it in good order."""

import signal
import sys

from scapy.all import conf, sniff
from scapy.utils import PcapWriter

conf.bufsize = 212992  # what a receive buffer may hold by default
interface, file = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with PcapWriter(file, sync=True) as writer:
    sniff(iface=None if interface == "any" else interface, store=False, prn=writer.write)
