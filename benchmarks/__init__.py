# See LICENSE for details.
"""
What the daemon costs, measured beside what others cost, or what the libraries
under it cost by themselves.

Each program makes its own network namespaces, frames and servers, removes them
when it ends, and prints one table::

    python -m benchmarks.throughput --help

All need root, since they make namespaces and capture. The machine should have
nothing else to do: one core sends while another one captures.
"""
