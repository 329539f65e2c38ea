"""What is in deploy/monitoring: made, checked and drawn from these modules."""
