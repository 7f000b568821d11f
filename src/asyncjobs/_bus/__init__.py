"""What happened, for whoever wants to know: an event that is published becomes one job for each subscription it matches."""
