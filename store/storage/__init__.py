"""Storage of objects: a local file system or an object store behind one interface."""
