"""Models for programs that do not have this package: StableHLO for jax, ONNX for other runtimes."""
