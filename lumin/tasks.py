"""The five classifiers of the paper, one row each, in the paper's order."""

from dataclasses import dataclass

from lumin.paper import Recipe


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

    @property
    def luminal(self) -> bool:
        """True for the tasks of the subtype subset (749 patients of CMMD)."""
        return "luminal" in self.outputs

    def epochs(self, recipe: Recipe) -> int:
        """At most this many passes over the training images."""
        return recipe.luminal_epochs if self.luminal else recipe.abnormality_epochs


# fmt: off
TASKS = (  # name              outputs                                  loss   lr    dropout      sampler       init        section
    Task("mass-calc",        ("calcification", "mass"),              "bce", 1e-4),                                          # 2.2.2
    Task("benign-malignant", ("benign", "malignant"),                "ce",  1e-4),                                          # 2.2.2
    Task("mlmc",             ("calcification", "mass", "malignant"), "bce", 1e-4),                                          # 2.2.2
    Task("luminal-baseline", ("non_luminal", "luminal"),             "ce",  1e-5, dropout=0.3, sampler=True),               # 2.2.1
    Task("luminal-transfer", ("non_luminal", "luminal"),             "ce",  1e-5, dropout=0.3, sampler=True, init="mlmc"),  # 2.2.3
)
# fmt: on
BY_NAME = {task.name: task for task in TASKS}
