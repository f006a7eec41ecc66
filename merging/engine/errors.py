"""What the engine refuses, in one sentence each."""

from vectors.tensorfile.errors import Problem, _

__all__ = ["MergeError", "RecipeError", "_"]


class RecipeError(Problem):
    """The recipe itself is wrong: an unknown method, a bad coefficient, an unsupported key."""


class MergeError(Problem):
    """The parts of a recipe do not go together; the sentence names the tensor."""
