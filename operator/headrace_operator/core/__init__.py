"""What is decided, without a cluster: frozen values in, frozen values out."""
