"""What accuracy each setting of the codec leaves: measured points, and surfaces through them."""
