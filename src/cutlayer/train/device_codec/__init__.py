"""The codec on a tensor's own torch device: only symbols and small statistics cross to the host."""
