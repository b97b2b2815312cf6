"""
The access record: what is logged about each connection that has ended.

Invariant: the values are plain, and the same whether the record goes out as an event or as a line.
"""

from collections.abc import Mapping

AccessRecord = tuple[bool, int, str, str, int, float, str, Mapping[str, str]]
"""
One connection that has ended.  In order:

  - C{probe}: whether it only shows that the port accepts connections, as load balancers check
    every few seconds.  It is logged as debug, others as info.
  - C{number}: its number, from 1.
  - C{listener}: the name of the listener that accepted it.
  - C{peer}: the client's address as text.
  - C{bytes_echoed}
  - C{seconds}: how long it was open.
  - C{reason}: why it ended, a C{Reason<echod.connections.connection.Reason>}.
  - C{fields}: more about it, by name; each name is an identifier.

A plain tuple costs nothing more than the values; a named one costs each connection 0.2 µs.
"""
