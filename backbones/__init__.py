"""ViT pieces that teachers and the student share, and safe checkpoint loading."""
