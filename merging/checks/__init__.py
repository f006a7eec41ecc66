"""Ability checks: the held-out items that come with vectors, asked of models.

Three parts that know little of each other. The *runner* (`__main__`, `asking`, `loading`, `limits`
and one file a family of kinds) is a program of its own that loads a model folder with transformers;
it knows no Django, and nothing else here imports torch. `statistics` and `table` are arithmetic.
The rest are rows and jobs: `models`, `plan`, `folders`, `process`, `running`, `services`.
"""
