"""Sign orders: confirmation, journal and signature."""
