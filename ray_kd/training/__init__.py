"""The loop: one step, one epoch, evaluation, checkpoint, records. Plain PyTorch, no Ray."""
