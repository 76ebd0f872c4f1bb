"""Problems, demonstrations, benchmarks and prompts; `graded` is the synthetic world."""
