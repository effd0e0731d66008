"""What the user hands over, on its way to padded token ids."""
