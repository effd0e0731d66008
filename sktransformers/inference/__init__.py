"""Logits for new texts."""
