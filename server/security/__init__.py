"""Who may talk to a server, how much one caller may take, and what the wire gives away.

Nothing here is on the path of a call but `Gate.admit`.
"""
