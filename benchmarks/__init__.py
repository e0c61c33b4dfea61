"""How fast tftpkit is, and how it compares: loads, peers, a lossy link, and a report of it all.

Nothing here is installed with the package. `make bench` runs it; README.md says what is measured.
"""
