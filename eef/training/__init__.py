"""Training: from rendered examples to changed weights."""
