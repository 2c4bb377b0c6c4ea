"""Circuits of several models, tasks or seeds set side by side: what they share, how they are built.

`compare(circuits)` gives the report. Holds numpy, networkx and scipy only, except `batch` (torch-geometric) and `heads`
(which gathers attention patterns and direct effects from models).
"""
