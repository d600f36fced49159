"""Sets on disk: a folder or a dataset in, augmented images with their manifest out."""
