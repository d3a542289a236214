"""The parts of the Live page: starting a search, steering it, going back in it, and what is left when it is over."""
