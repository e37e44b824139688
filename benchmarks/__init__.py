"""What deepcomp reaches on named real shapes, beside its rivals; see README.md."""
