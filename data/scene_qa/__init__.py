"""Questions about scenes: records of views, question and answers -> batches for a vision-language model."""
