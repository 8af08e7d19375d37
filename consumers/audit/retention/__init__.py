"""How long the audit log is kept, what is held back from that, and what stands where records were retired."""
