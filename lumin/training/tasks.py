"""The five classifiers of the paper, one row each, in the paper's order."""

from dataclasses import dataclass

from lumin.paper.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """One training objective. `outputs` name the columns of its predictions files."""

    name: str
    outputs: tuple[str, ...]
    loss: str  # "bce": independent findings, sigmoid; "ce": exclusive classes, softmax
    learning_rate: float
    dropout: float = 0.0  # before the last layer
    sampler: bool = False  # draw the classes equally often
    init: str = "weights"  # the run's starting weights, or the task whose fold k fold k starts from
    schedule: str = "none"  # of the learning rate: none, cosine or plateau
    frozen_norm: bool = False  # batch normalisation stays as it is in the starting weights
    split: str = ""  # the split that all tasks share, or the name of one of its own
    balanced_validation: bool = False  # exclusive classes count equally in the validation loss
    shuffled: bool = False  # the subtype is permuted among patients: the negative control

    @property
    def luminal(self) -> bool:
        """True for the tasks of the subtype subset (749 patients of CMMD)."""
        return "luminal" in self.outputs

    def epochs(self, recipe: Recipe) -> int:
        """At most this many passes over the training images."""
        return recipe.luminal_epochs if self.luminal else recipe.abnormality_epochs


FINDINGS, SUBTYPE = ("calcification", "mass"), ("non_luminal", "luminal")
# fmt: off
TASKS = (  # 2.2.1 to 2.2.3
    Task("mass-calc",        FINDINGS,                "bce", 1e-4),
    Task("benign-malignant", ("benign", "malignant"), "ce",  1e-4),
    Task("mlmc",             (*FINDINGS, "malignant"), "bce", 1e-4),
    Task("luminal-baseline", SUBTYPE,                 "ce",  1e-5, dropout=0.3, sampler=True),
    Task("luminal-transfer", SUBTYPE,                 "ce",  1e-5, dropout=0.3, sampler=True,
         init="mlmc"),
)
# fmt: on
BY_NAME = {task.name: task for task in TASKS}
