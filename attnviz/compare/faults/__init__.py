"""What people get wrong in attention kernels, a small class each, and the search for the one that explains a kernel's numbers."""
