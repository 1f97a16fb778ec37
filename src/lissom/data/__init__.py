"""Data: sources, splits for training, validation and test, preprocessing and augmentation."""
