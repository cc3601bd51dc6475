"""Who holds how many blocks of the KV cache."""
