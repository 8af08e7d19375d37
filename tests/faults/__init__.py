"""The fault run: real servers and processes, everything broken that can be, and a judge who asks the clients."""
