"""One module per technology; none of them knows another."""
