"""Read files, processes, sockets and pcscd without calling a module."""
