"""Sign orders: confirmation, journal, signature."""
