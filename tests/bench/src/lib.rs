//! Side-by-side benchmarks in network namespaces.
