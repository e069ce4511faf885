"""What can go wrong, and how each fault sees that it did; one module for each group."""
