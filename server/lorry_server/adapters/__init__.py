"""The library of adapters: names, versions, sources and loads, on the event loop's side."""
