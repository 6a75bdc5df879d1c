"""Body models behind one interface: what turns rotations and shape numbers into a mesh with joints."""
