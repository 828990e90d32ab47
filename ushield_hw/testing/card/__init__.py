"""Virtual cards: command APDU in, response APDU out. Without sockets and threads."""
