"""The hot loops, in C and in numpy, behind one interface. Know arrays; nothing of packets."""
