"""The trainer. Importing this package loads nothing: `trainer.contract` must stay free of torch."""
