"""What the doctor reads without asking a module: files, processes, sockets, pcscd."""
