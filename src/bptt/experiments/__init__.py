"""What is tried with the library and never needed by it: trials, comparisons, claims, benchmarks."""
