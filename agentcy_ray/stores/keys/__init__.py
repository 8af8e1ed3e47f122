"""What wraps data keys: the install's own key, or a key service, behind one protocol."""
