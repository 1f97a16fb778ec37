"""What the commands explain, inspect, bench and store do, without their words."""
