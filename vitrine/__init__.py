"""What people and programs hold: the command line, the demo, and what a program imports."""
