"""Watching servers: what events add up to, the channel that tells of it, and the channel's readers.

Nothing here knows how a server works: events come in, orders go out through a few methods that
`tftp.monitor.channel.Controls` names.
"""
