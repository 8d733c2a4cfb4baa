"""What models are calibrated and measured on: drawn scenes, easy-VQA, VQA v2."""
