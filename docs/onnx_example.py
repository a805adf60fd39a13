"""Salt in an image: python onnx_example.py model.onnx image.npy probability.npy."""

import sys

import numpy as np
import onnxruntime

model, image, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
pixels = np.load(image)  # height × width, uint8, grey
probability = session.run(None, {"image": pixels[None, None]})[0][0, 0]
threshold = float(session.get_modelmeta().custom_metadata_map["threshold"])
print(f"{(probability > threshold).mean():.1%} salt")
np.save(output, probability)
