"""The network: torch only, nothing of scikit-learn, no files."""
