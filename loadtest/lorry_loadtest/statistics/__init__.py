"""Statistics on plain numbers: they know neither records nor servers."""
