"""Who may take part in a run: its own certificate authority, invitations, revocation.

Knows keys, certificates and the files that hold them; nothing of connections.
"""
