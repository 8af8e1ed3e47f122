"""Floor 2: one file per outside thing. What speaks a wire protocol or touches a disk is here."""
