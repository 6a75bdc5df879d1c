"""Task heads: decoders trained on a frozen encoder, loaded, trained and scored."""
