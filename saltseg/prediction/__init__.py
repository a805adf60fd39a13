"""What goes into a prediction and what it leaves: images, surveys, files."""
