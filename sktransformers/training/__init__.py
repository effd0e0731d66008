"""One optimizer step after another."""
