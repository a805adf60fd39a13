"""Images, masks, their division and batches."""
