"""Teachers: frozen networks behind one small interface."""
