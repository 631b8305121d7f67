"""A help desk with tools: the example of `docs/your-agent.md`."""
