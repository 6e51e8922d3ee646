"""One reader for each format in which VGG-19's weights are found."""
