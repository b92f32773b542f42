"""The five tasks, augmentation, network, fit and predict."""

import os

# PyTorch asks who the user is, which nobody knows of a user without a passwd entry: docker run
# --user, or a cluster's container. A name that is set comes before that question.
os.environ.setdefault("USER", str(os.getuid()))
