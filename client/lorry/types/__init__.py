"""The wire schema: the one definition that server and client share.

Requests refuse unknown fields when the server decodes them; responses tolerate them when the
client does.
"""
