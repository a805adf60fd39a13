"""Networks: the article's own, any of segmentation_models_pytorch, and where their weights come from."""
