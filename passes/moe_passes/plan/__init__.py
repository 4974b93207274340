"""The vocabulary: frozen values that everybody imports and that import nothing of ours."""
