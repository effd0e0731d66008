"""What goes wrong with saved models."""


class SavedModelError(ValueError):
    """A saved model cannot be read: damaged, incomplete, of a newer format, or none of ours."""
