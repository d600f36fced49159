"""Fine-tuning: a folder of classes in, a model that knows a word for each out."""
