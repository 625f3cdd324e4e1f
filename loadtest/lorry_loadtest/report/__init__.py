"""The report: one HTML page that needs no network, with its charts as inline SVG."""
