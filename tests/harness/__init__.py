"""A real one-node Kubernetes, its tools, its images and a tiny model: what tests and `make demo` stand on."""
