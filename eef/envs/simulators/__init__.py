"""Environments played in processes of their own: workers, pools, JVMs and gold paths."""
