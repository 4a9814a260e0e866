"""VideoMAE V2 in JAX: pre-train, fine-tune and use video masked autoencoders."""

__version__ = "0.1.0"
