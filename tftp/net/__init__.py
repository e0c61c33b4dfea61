"""UDP: sockets and what the kernel can do with them, and the loop that serves many transfers."""
