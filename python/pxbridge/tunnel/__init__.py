"""A tunnel: a public address for a port of this machine, by a program that runs as our child.

No tunnel program is believed. A tunnel is open when its public URL was dialled from here, through the
internet and back, and the port behind it answered as it answers a carrier. No tunnel is opened to a port that
lets in whoever comes.

`child` runs a program. `cloudflared`, `ngrok` and `bore` say how each is started and read. `target` is
the port behind the tunnel, `checks` asks it and dials it, and `supervisor` keeps a tunnel open.
"""
