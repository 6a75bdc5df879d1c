"""From caches to batches on the device."""
