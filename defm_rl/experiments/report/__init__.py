"""The sim-to-real report: what becomes of trained policies and of an encoder's features behind other depth cameras."""
