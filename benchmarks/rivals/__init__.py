"""What ERTACache is compared with: other caches, and fewer steps by other solvers."""
