"""What is inside the plastic: command APDU in, response APDU out. No sockets, no threads of its own."""
