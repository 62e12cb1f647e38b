"""Values to symbols: centre, transform, sparsify, quantise. Know no packets and no bytes but their
own settings'."""
