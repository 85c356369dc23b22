# See LICENSE for details.
"""
The command C{pcapdaemon}: requests sent, followed and explained.

It is a client of the buses, and may block. What is slow to import is imported
where it is used, so that C{--help} comes at once.
"""
