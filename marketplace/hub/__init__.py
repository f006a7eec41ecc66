"""The model hub protocol: what `huggingface_hub` and the tools on top of it speak.

Foundations, vectors and equipped models are repositories with immutable commits. The routes and
their traps are those the clients really use; error codes are those they turn into exceptions.
"""
