"""Latency, memory and size of bundles, measured side by side on this machine; no torch."""
