"""What the paper states, each constant once, with its section.

Panambur, Madhu, Maier: Classification of Luminal Subtypes in Full Mammogram Images Using Transfer
Learning. arXiv:2301.09282, January 2023. docs/paper.md goes through it statement by statement.
"""

IMAGES, PATIENTS = 3744, 1775  # 2.1, labelled images and their patients
SUBTYPE_IMAGES = 1498  # Table 1(a), those with a molecular subtype (749 patients, 2.1)
LUMINAL = ("Luminal A", "Luminal B")  # 2.1
NON_LUMINAL = ("HER2-enriched", "triple negative")  # 2.1
HEIGHT, WIDTH = 1326, 512  # 2.1, pixels of a network input (rows, columns)
ASPECT = HEIGHT / WIDTH  # 2.59; 2.1 derives the input size from the mean crop
FOLDS = 5  # 2.1
BATCH = 16  # 2.2.1, for all experiments
WEIGHT_DECAY = 5e-3  # 2.2.1, 2.2.2
PATIENCE = 10  # 2.2, epochs without a lower validation loss
P_FLIP, P_AUGMIX, P_EQUALIZE, P_ERASE = 0.5, 0.2, 0.4, 0.1  # 2.2
ALPHA = 1e-4  # 3, "p<0.0001", two-tailed t-test

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
