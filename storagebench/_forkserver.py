"""Preloaded into the fork server, and imported nowhere else: it makes the server die with the process that started it.

Worker processes are forked from this server, so torch is imported once (0.3 s a DataLoader against 2 s with spawn), and no worker is ever forked
from a process that holds threads or clients.
"""

from storagebench.process import die_with_parent

die_with_parent()
