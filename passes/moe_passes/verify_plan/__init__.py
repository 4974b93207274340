"""An independent checker of complete plans."""
