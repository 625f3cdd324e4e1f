"""How bytes get to a server and back: one protocol, and one module per HTTP library."""
