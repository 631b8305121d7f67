"""Execution: the stages of a run, one module each.

collect → (explore → select → train → evaluate) per round; `executors` names the function of each
"""
