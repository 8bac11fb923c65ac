"""A tunnel: a public address for a port of this machine, by a program that runs as our child.

The output of a tunnel program is not trusted. A tunnel counts as open when its public URL was dialled from
here, through the internet and back, and the port behind it answered as it answers a carrier. No tunnel is
opened to a port that admits clients without a password or a token.

`child` runs a program. `cloudflared`, `ngrok` and `bore` know how to start each one and how to read its
output. `target` is the port behind the tunnel, `checks` dials it, and `supervisor` keeps a tunnel open.
"""
