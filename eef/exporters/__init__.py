"""Exporters: training examples as files for other trainers."""
