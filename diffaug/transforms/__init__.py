"""What people compose: image transforms that draw once, ask a backend, and finish.

Every transform works in the ``Compose`` of torchvision's ``transforms.v2`` and ``transforms``: on
PIL images of any mode, on uint8 and float tensors, and on ``tv_tensors.Image``, one image or a
batch ``(..., C, H, W)``, within any nesting of tuples, lists and dicts. What comes out has the
size, type, dtype and device of what went in; labels, boxes and masks pass through untouched.
"""
